/*-------------------------------------------------------------------------
 *
 * discrepancy.c
 *	  Differences on record: found, found again, gone, accepted.
 *
 * A difference has one row, whichever verification finds it: the same target,
 * key, kind and columns are the same difference.  A verification touches the
 * rows of what it finds, opens those again that had been closed, and closes in
 * the end what it has not found any more.  So what somebody has said about a
 * difference stays with it.
 *
 * rehome.max_discrepancies bounds how many a verification records.  Of those
 * beyond it only the ones that are on record as open are looked up, so that
 * none is closed that still is there; for the others there is one row of kind
 * "unrecorded", which no rule can accept.
 *
 * An acceptance is a rule, evaluated over what is open at the end of each
 * verification.  It hides nothing: the row stays open, and names the rule.
 *
 * The work lock of the slice keeps two verifications apart.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/redaction.h"
#include "common/hashfn.h"
#include "guc.h"
#include "miscadmin.h"
#include "util/name.h"
#include "util/stated.h"
#include "utils/builtins.h"
#include "verify/discrepancy.h"

/*
 * rehome_actor returns the name of whoever called, for the record.
 */
char *
rehome_actor(void)
{
	return GetUserNameFromId(GetOuterUserId(), false);
}

static uint64
identity(const char *kind, const char *key)
{
	return hash_bytes_extended((const unsigned char *) key, (int) strlen(key),
							   hash_bytes_extended((const unsigned char *) kind, (int) strlen(kind), 0));
}

/*
 * rehome_discrepancies_begin begins a verification of one table.  snapshot
 * has to live as long.
 */
RehomeDiscrepancies *
rehome_discrepancies_begin(RehomeSlice *slice, Oid target, const char *snapshot)
{
	HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(uint64),.hcxt = CurrentMemoryContext};
	RehomeDiscrepancies *run = palloc0(sizeof(RehomeDiscrepancies));
	List	   *redacted = rehome_redacted_columns(target);
	RehomeRows *rows;

	run->slice = slice;
	run->target = target;
	run->snapshot = snapshot;
	if (redacted != NIL)
		run->redacted = rehome_name_array(redacted);
	run->began = rehome_spi_value("SELECT clock_timestamp()", "");
	run->open = hash_create("pg_rehome open discrepancies", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	rows = rehome_spi("SELECT kind, key FROM rehome.discrepancy"
					  " WHERE migration = $1::name AND slice = $2::name AND target = $3 AND resolved_at IS NULL",
					  "tto", slice->migration->name, slice->name, target);
	for (int i = 0; i < rows->n; i++)
	{
		uint64		hash = identity(rows->value[i][0], rows->value[i][1]);

		(void) hash_search(run->open, &hash, HASH_ENTER, NULL);
	}
	return run;
}

/*
 * remember writes one difference down; with insert also one that is not known.
 * Tells whether it is on record now.
 */
static bool
remember(RehomeDiscrepancies *run, const char *kind, const char *key, const char *columns,
		 const char *source_row, const char *target_row, bool insert)
{
	RehomeRows *rows;

	rows = rehome_spi_planned(&run->find,
							  "SELECT id, resolved_at IS NOT NULL FROM rehome.discrepancy"
							  " WHERE migration = $1::name AND slice = $2::name AND target = $3 AND kind = $4"
							  " AND hashtextextended(key::text, 0) = hashtextextended($5::jsonb::text, 0) AND key = $5::jsonb"
							  " AND columns IS NOT DISTINCT FROM $6::name[] ORDER BY id DESC LIMIT 1", "ttottt",
							  run->slice->migration->name, run->slice->name, run->target, kind, key, columns);
	if (rows->n > 0)
		rehome_spi_planned(&run->again,
						   "WITH again AS ("
						   " UPDATE rehome.discrepancy SET last_seen = clock_timestamp(), times = times + 1,"
						   " source_row = $2::jsonb, target_row = $3::jsonb, snapshot = $4, resolved_at = NULL,"
						   " reopened_at = CASE WHEN $5 THEN clock_timestamp() ELSE reopened_at END WHERE id = $1 RETURNING id)"
						   " INSERT INTO rehome.discrepancy_history (discrepancy, who, what, detail)"
						   " SELECT id, $6::name, 'reopened', jsonb_build_object('snapshot', $4) FROM again WHERE $5", "ltttbt",
						   rehome_int64(rows->value[0][0]), source_row, target_row, run->snapshot,
						   rehome_bool(rows->value[0][1]), rehome_actor());
	else if (insert)
		rehome_spi_planned(&run->new,
						   "WITH new AS ("
						   " INSERT INTO rehome.discrepancy (migration, slice, target, kind, key, columns, source_row, target_row, snapshot)"
						   " VALUES ($1::name, $2::name, $3, $4, $5::jsonb, $6::name[], $7::jsonb, $8::jsonb, $9) RETURNING id)"
						   " INSERT INTO rehome.discrepancy_history (discrepancy, who, what, detail)"
						   " SELECT id, $10::name, 'found', jsonb_build_object('snapshot', $9) FROM new", "ttottttttt",
						   run->slice->migration->name, run->slice->name, run->target, kind, key, columns,
						   source_row, target_row, run->snapshot, rehome_actor());
	return rows->n > 0 || insert;
}

/*
 * blanked returns a row without what is not to be on record.
 */
static const char *
blanked(RehomeDiscrepancies *run, const char *row)
{
	if (run->redacted == NULL || row == NULL)
		return row;
	return rehome_spi_value("SELECT rehome.blanked($1::jsonb, $2::text[])", "tt", row, run->redacted);
}

/*
 * rehome_discrepancy_seen records one difference: kind, and the text of its
 * key and rows as jsonb, a row being NULL where there is none.
 */
void
rehome_discrepancy_seen(RehomeDiscrepancies *run, const char *kind, const char *key,
						const char *columns, const char *source_row, const char *target_row)
{
	uint64		hash = identity(kind, key);
	bool		known = hash_search(run->open, &hash, HASH_FIND, NULL) != NULL;
	bool		insert = run->recorded < rehome_max_discrepancies;

	if (insert)
		run->recorded++;
	if (!(insert || known) || !remember(run, kind, key, columns, blanked(run, source_row), blanked(run, target_row), insert))
		run->unrecorded++;
}

/*
 * rehome_discrepancies_close closes those of a target that were not seen since
 * a time, after which all its rows have been looked at.
 */
void
rehome_discrepancies_close(RehomeSlice *slice, Oid target, const char *since, const char *snapshot)
{
	rehome_spi("WITH gone AS ("
			   " UPDATE rehome.discrepancy SET resolved_at = clock_timestamp()"
			   " WHERE migration = $1::name AND slice = $2::name AND target = $3 AND resolved_at IS NULL"
			   " AND last_seen < $4::timestamptz RETURNING id)"
			   " INSERT INTO rehome.discrepancy_history (discrepancy, who, what, detail)"
			   " SELECT id, $5::name, 'closed', jsonb_build_object('snapshot', $6) FROM gone", "ttottt",
			   slice->migration->name, slice->name, target, since, rehome_actor(), snapshot);
}

/*
 * rehome_discrepancies_end closes what was not seen any more, if all rows were
 * looked at, and looks which of the rest is accepted.
 */
void
rehome_discrepancies_end(RehomeDiscrepancies *run)
{
	if (run->unrecorded > 0)
		(void) remember(run, "unrecorded", "{}", NULL, psprintf("{\"rows\": " INT64_FORMAT "}", run->unrecorded), NULL, true);
	if (!run->partial)
		rehome_discrepancies_close(run->slice, run->target, run->began, run->snapshot);
	hash_destroy(run->open);
	rehome_acceptances_apply(run->slice->migration, run->target, 0);
}

/*
 * covered returns the discrepancies of a list that satisfy a predicate, each
 * as an id.  Raises what the predicate raises if strict; else a WARNING says
 * so, and none is covered.
 */
static RehomeRows *
covered(RehomeMigration *migration, Oid target, char **rule, const char *list, bool strict)
{
	RehomeStated stated = {migration->owner, rule[2], 0, false};
	char	   *name = rehome_relation_name(target);
	RehomeRows *rows = NULL;
	ErrorData  *error;
	char	   *sql;

	sql = psprintf("SELECT \"rehome list\".\"rehome id\""
				   " FROM jsonb_to_recordset($1::jsonb) AS \"rehome list\"(\"rehome id\" bigint, \"rehome s\" jsonb, \"rehome t\" jsonb)"
				   " CROSS JOIN LATERAL jsonb_populate_record(NULL::%s, \"rehome s\") AS source"
				   " CROSS JOIN LATERAL jsonb_populate_record(NULL::%s, \"rehome t\") AS target"
				   " WHERE (%s\n)", name, name, rule[1] ? rule[1] : "true");
	if (strict)
		return rehome_stated_run(&stated, sql, list);
	error = rehome_stated_try(&stated, sql, list, &rows);
	if (error == NULL)
		return rows;
	ereport(WARNING,
			errcode(error->sqlerrcode),
			errmsg("acceptance %s of migration \"%s\" could not be evaluated: %s", rule[0],
				   migration->name, error->message),
			errhint("SELECT rehome.revoke_acceptance(%s, %s);", quote_literal_cstr(migration->name), rule[0]));
	return NULL;
}

/*
 * rehome_acceptances_apply finds out which rule accepts each open discrepancy
 * of a target: the first that does.  strict is the id of a rule that has to
 * be evaluated without an error, or 0.
 */
void
rehome_acceptances_apply(RehomeMigration *migration, Oid target, int strict)
{
	RehomeRows *rules;
	StringInfoData ids;
	StringInfoData names;
	char	   *redacted = NULL;

	initStringInfo(&ids);
	initStringInfo(&names);
	rules = rehome_spi("SELECT id, predicate, search_path, columns FROM rehome.acceptance"
					   " WHERE migration_id = $1 AND target = $2 ORDER BY id", "io", migration->id, target);
	if (rules->n > 0)
		redacted = rehome_name_array(rehome_redacted_columns(target));
	for (int i = 0; i < rules->n; i++)
	{
		char	  **rule = rules->value[i];
		char	   *list;
		RehomeRows *rows;

		/* an empty list is evaluated too: a wrong predicate is to be told */
		list = rehome_spi_value("SELECT coalesce(jsonb_agg(jsonb_build_object('rehome id', d.id, 'rehome s', d.source_row - $5::text[], 'rehome t', d.target_row - $5::text[])), '[]')"
								" FROM rehome.discrepancy d"
								" WHERE d.migration = $1::name AND d.target = $2 AND d.resolved_at IS NULL"
								" AND d.kind <> 'unrecorded' AND d.id <> ALL ($3::bigint[])"
								" AND ($4 IS NULL OR (d.kind = 'differing' AND d.columns <@ $4::name[]))", "tottt",
								migration->name, target, psprintf("{%s}", ids.data), rule[3], redacted);
		rows = covered(migration, target, rule, list, rehome_int(rule[0]) == strict);
		for (int n = 0; rows != NULL && n < rows->n; n++)
		{
			appendStringInfo(&ids, "%s%s", ids.len ? "," : "", rows->value[n][0]);
			appendStringInfo(&names, "%s%s", names.len ? "," : "", rule[0]);
		}
	}
	rehome_spi("WITH verdict AS ("
			   " SELECT d.id, v.rule FROM rehome.discrepancy d"
			   " LEFT JOIN unnest($3::bigint[], $4::int[]) AS v(id, rule) ON v.id = d.id"
			   " WHERE d.migration = $1::name AND d.target = $2 AND d.resolved_at IS NULL AND d.acceptance IS DISTINCT FROM v.rule),"
			   " changed AS ("
			   " UPDATE rehome.discrepancy d SET acceptance = v.rule FROM verdict v WHERE d.id = v.id RETURNING d.id, d.acceptance)"
			   " INSERT INTO rehome.discrepancy_history (discrepancy, who, what, detail)"
			   " SELECT id, $5::name, CASE WHEN acceptance IS NULL THEN 'acceptance revoked' ELSE 'accepted' END,"
			   " jsonb_build_object('acceptance', acceptance) FROM changed", "tottt",
			   migration->name, target, psprintf("{%s}", ids.data), psprintf("{%s}", names.data), rehome_actor());
}
