/*-------------------------------------------------------------------------
 *
 * redact.c
 *	  Columns whose values are not to be on record.
 *
 * Differences, drift and refused rows are recorded whole, by people's names
 * and card numbers if need be, in tables that more people may read than the
 * rows themselves, and that are dumped.  So a column can be redacted: where
 * its value would be written down stands "[redacted]".  That is done when a
 * row is recorded (verify/discrepancy.c, capture/drift.c, copy/sieve.c), not
 * when it is shown: what is not there cannot leak.
 *
 * A row in quarantine has the columns of the source; of these all are blanked
 * that a redacted column is made from.  The message of a refusal, or of an error
 * that stops a slice, may quote any value, and is withheld.
 *
 * The key stays.  By it rows are repaired, retried, accepted and looked at
 * again; nothing else is read from these tables, but by the predicate of an
 * acceptance, for which a redacted column is null.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "catalog/redaction.h"
#include "derive/derive.h"
#include "mapping/mapping.h"
#include "trust/trust.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "verify/discrepancy.h"

/* What redact and unredact are called with. */
typedef struct Request
{
	RehomeMigration *migration;
	Oid			target;
	char	   *columns;		/* a name[], as text */
	RehomeSlice *slice;			/* of the target */
	RehomeTableMap *map;		/* or NULL, of a table that is derived only */
} Request;

/*
 * find_target fills in whose target it is.
 */
static void
find_target(Request *request)
{
	int			slice_id = rehome_derived_slice(request->migration, request->target);

	request->map = NULL;
	if (slice_id == 0)
	{
		request->map = rehome_table_map_of(request->migration, request->target);
		slice_id = request->map->slice_id;
	}
	request->slice = rehome_slice_by_id(slice_id);
}

static void
get_request(FunctionCallInfo fcinfo, RehomeCall *call, Request *request)
{
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the target must be given"));
	request->target = PG_GETARG_OID(1);
	request->columns = rehome_trust_array(fcinfo, 2, "the columns");
	rehome_call_begin(call, fcinfo);
	request->migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(call, request->migration);
}

/*
 * require_redactable raises unless all columns are there, and none is of the
 * key.
 */
static void
require_redactable(Request *request)
{
	List	   *key = NIL;
	RehomeProblems problems;
	ListCell   *lc;

	if (request->map != NULL)
		key = request->map->key;
	foreach(lc, rehome_derivations_get(request->slice))
	{
		RehomeDerivation *derivation = lfirst(lc);

		if (derivation->target == request->target && derivation->whole)
			key = derivation->key;
	}
	rehome_problems_init(&problems);
	foreach(lc, rehome_name_list(request->columns))
	{
		const char *column = lfirst(lc);

		if (get_attnum(request->target, column) <= 0)
			rehome_problem(&problems, ERRCODE_UNDEFINED_COLUMN, NULL, "\"%s\" is not a column of it.", column);
		else if (rehome_name_listed(key, column))
			rehome_problem(&problems, ERRCODE_FEATURE_NOT_SUPPORTED, "Redact other columns, or give the table a key that may be seen.",
						   "\"%s\" is in the key, by which rows are repaired, retried and accepted.", column);
	}
	rehome_problems_raise(&problems, "columns of %s cannot be redacted", rehome_relation_name(request->target));
}

static void
store(Request *request)
{
	rehome_spi("INSERT INTO rehome.redaction (migration_id, target, \"column\")"
			   " SELECT DISTINCT $1, $2, c FROM unnest($3::name[]) AS c ON CONFLICT DO NOTHING", "iot",
			   request->migration->id, request->target, request->columns);
}

/*
 * rehome_define_redaction redacts columns (the text of an array of names) of
 * a target of which nothing is on record.
 */
void
rehome_define_redaction(RehomeMigration *migration, Oid target, const char *columns)
{
	Request		request = {migration, target, pstrdup(columns)};

	find_target(&request);
	require_redactable(&request);
	store(&request);
}

/*
 * blank takes what is redacted out of what is on record already.  Returns the
 * number of records that were changed.
 */
static uint64
blank(Request *request)
{
	List	   *columns = rehome_redacted_columns(request->target);
	char	   *redacted = rehome_name_array(columns);
	uint64		n;

	n = rehome_spi("UPDATE rehome.discrepancy SET source_row = rehome.blanked(source_row, $3::text[]),"
				   " target_row = rehome.blanked(target_row, $3::text[])"
				   " WHERE migration = $1::name AND target = $2 AND kind <> 'unrecorded'"
				   " AND (source_row <> rehome.blanked(source_row, $3::text[]) OR target_row <> rehome.blanked(target_row, $3::text[]))",
				   "tot", request->migration->name, request->target, redacted)->processed;
	n += rehome_spi("UPDATE rehome.drift SET old_row = rehome.blanked(old_row, $3::text[]),"
					" new_row = rehome.blanked(new_row, $3::text[])"
					" WHERE migration = $1::name AND target = $2"
					" AND (old_row <> rehome.blanked(old_row, $3::text[]) OR new_row <> rehome.blanked(new_row, $3::text[]))",
					"tot", request->migration->name, request->target, redacted)->processed;
	if (request->map != NULL)
	{
		RehomeMapping *mapping = rehome_mapping_compile(request->map, request->migration->owner);

		n += rehome_spi("UPDATE rehome.quarantine SET source_row = rehome.blanked(source_row, $3::text[]), message = $4,"
		/* a digest of what is not to be on record; the next pass makes another */
						" contents = CASE WHEN contents = '' THEN '' ELSE md5(id::text) || '-1' END"
						" WHERE migration = $1::name AND target = $2"
						" AND (message <> $4 OR source_row <> rehome.blanked(source_row, $3::text[]))",
						"tott", request->migration->name, request->target,
						rehome_name_array(rehome_mapping_reads(mapping, columns)), REHOME_REDACTED_MESSAGE)->processed;
	}
	n += rehome_spi("UPDATE rehome.event SET message = $2 WHERE migration = $1::name"
					" AND kind IN ('error', 'derive_failed', 'deferred') AND message NOT LIKE $2 || '%'", "tt",
					request->migration->name, REHOME_REDACTED_MESSAGE)->processed;
	rehome_spi("UPDATE rehome.slice SET error = $2 WHERE migration_id = $1 AND error IS NOT NULL", "it",
			   request->migration->id, REHOME_REDACTED_MESSAGE);
	rehome_spi("UPDATE rehome.derivation SET error = $2 WHERE migration_id = $1 AND error IS NOT NULL", "it",
			   request->migration->id, REHOME_REDACTED_MESSAGE);
	rehome_spi("UPDATE rehome.saved_object o SET deferred = $2 FROM rehome.slice s"
			   " WHERE s.id = o.slice_id AND s.migration_id = $1 AND o.deferred IS NOT NULL", "it",
			   request->migration->id, REHOME_REDACTED_MESSAGE);
	return n;
}

PG_FUNCTION_INFO_V1(rehome_redact);

/*
 * rehome_redact(migration name, target regclass, columns name[])
 */
Datum
rehome_redact(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	Request		request;

	get_request(fcinfo, &call, &request);
	find_target(&request);
	require_redactable(&request);
	/* nobody records rows meanwhile who does not know of it */
	rehome_slice_work_lock(request.slice);
	if (request.map != NULL && request.map->drift_policy != REHOME_DRIFT_REJECT)
		rehome_targets_lock(list_make1(request.map), ShareLock);
	store(&request);
	ereport(NOTICE,
			errmsg("%s: " UINT64_FORMAT " records were blanked", rehome_relation_name(request.target), blank(&request)));
	rehome_event(request.migration->name, request.slice->name, "redacted",
				 psprintf("columns of %s are redacted: %s", rehome_relation_name(request.target), request.columns), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_unredact);

/*
 * rehome_unredact(migration name, target regclass, columns name[]), of a table
 * that may have left the migration.
 */
Datum
rehome_unredact(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	Request		request;
	char	   *unknown;

	get_request(fcinfo, &call, &request);
	unknown = rehome_spi_value("SELECT string_agg(quote_ident(c), ', ' ORDER BY c) FROM unnest($3::name[]) AS c"
							   " WHERE NOT EXISTS (SELECT FROM rehome.redaction r WHERE r.migration_id = $1 AND r.target = $2 AND r.\"column\" = c)",
							   "iot", request.migration->id, request.target, request.columns);
	if (unknown != NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("columns of %s are not redacted: %s", rehome_relation_name(request.target), unknown));
	rehome_spi("DELETE FROM rehome.redaction WHERE migration_id = $1 AND target = $2 AND \"column\" = ANY ($3::name[])",
			   "iot", request.migration->id, request.target, request.columns);
	rehome_event(request.migration->name, NULL, "redacted",
				 psprintf("columns of %s are redacted no more: %s", rehome_relation_name(request.target), request.columns), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
