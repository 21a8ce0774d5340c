/*-------------------------------------------------------------------------
 *
 * preflight.c
 *	  Everything that stands in the way of a migration, told before it starts.
 *
 * Errors keep rehome.start() from starting, or, of check "reverse" and of
 * the privileges for the switch, rehome.cutover() from cutting over.  Each
 * missing privilege comes with the GRANT that gives it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/inverse.h"
#include "capture/capture.h"
#include "catalog/define.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "cutover/cutover.h"
#include "derive/derive.h"
#include "errors.h"
#include "funcapi.h"
#include "mapping/mapping.h"
#include "miscadmin.h"
#include "monitor/preflight.h"
#include "monitor/round_trip.h"
#include "monitor/sql/source_facts.sql.h"
#include "remote/query.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* Oldest source we know how to talk to. */
#define OLDEST_SOURCE 100000

/* Columns of source_facts.sql. */
enum
{
	FACT_N, FACT_USAGE, FACT_OID, FACT_KIND, FACT_PERSISTENCE, FACT_OWNED, FACT_SELECT, FACT_TRIGGER,
	FACT_WRITE, FACT_ROW_SECURITY, FACT_CHILDREN, FACT_KEY_UNIQUE, FACT_TRIGGERS,
	FACT_UNREADABLE_PARTS, FACT_MAPPED_PARENT
};

static List *
finding(List *findings, const char *check, const char *severity, const char *object,
		char *detail, char *hint)
{
	RehomeFinding *f;
	ListCell   *lc;

	/* one GRANT may do for several objects: it is asked for once */
	foreach(lc, findings)
		if (hint != NULL && ((RehomeFinding *) lfirst(lc))->hint != NULL &&
			strcmp(check, "privilege") == 0 &&
			strcmp(hint, ((RehomeFinding *) lfirst(lc))->hint) == 0)
			return findings;
	f = palloc0(sizeof(RehomeFinding));
	f->check = check;
	f->severity = severity;
	f->object = pstrdup(object);
	f->detail = detail;
	f->hint = hint;
	return lappend(findings, f);
}

/*
 * source_facts runs source_facts.sql for the maps.
 */
static RehomeRows *
source_facts(RehomeConn *conn, List *maps)
{
	List	   *schemas = NIL;
	List	   *names = NIL;
	List	   *keys = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		RehomeRemoteTable *table = rehome_remote_table(map->source);

		schemas = lappend(schemas, table->schema);
		names = lappend(names, table->table);
		keys = lappend(keys, rehome_remote_key_array(map, table));
	}
	return rehome_conn_query(conn, sql_source_facts, "ttt", rehome_name_array(schemas),
							 rehome_name_array(names), rehome_name_array(keys));
}

/* Publications of all tables on one side, and what is to be said of them. */
#define PUBLISHED "SELECT string_agg(quote_ident(pubname), ', ' ORDER BY 1) FROM pg_publication WHERE puballtables"

static List *
check_published(List *findings, const char *published, const char *side)
{
	return published == NULL ? findings :
		finding(findings, side, "warning", published,
				psprintf("publishes all tables of the %s, those that pg_rehome makes there as well: a subscriber that lacks them stops", side),
				"Publish by schema or by table; or make tables of those names at the subscribers.");
}

static List *
check_connection(List *findings, RehomeConn *conn, RehomeSlice *slice)
{
	RehomeRows *rows = rehome_conn_query(conn,
										 "SELECT current_database(), current_user, pg_is_in_recovery(),"
										 " has_database_privilege(current_database(), 'CREATE')"
										 " OR EXISTS (SELECT FROM pg_namespace WHERE nspname = 'rehome_source' AND pg_has_role(nspowner, 'USAGE')),"
										 " current_setting('server_encoding'), quote_ident(current_database()), quote_ident(current_user)", "");
	char	  **v = rows->value[0];

	if (rehome_conn_version(conn) < OLDEST_SOURCE)
		findings = finding(findings, "source", "error", v[0],
						   psprintf("the source is PostgreSQL %d.%d", rehome_conn_version(conn) / 10000,
									rehome_conn_version(conn) / 100 % 100),
						   "Version 10 is the oldest that can be a source.");
	if (rehome_bool(v[2]))
		findings = finding(findings, "source", "error", v[0],
						   "the source is a standby; triggers cannot be created there",
						   "Point the server at its primary.");
	if (!rehome_bool(v[3]))
		findings = finding(findings, "privilege", "error", v[0],
						   psprintf("role \"%s\" may not create schema rehome_source", v[1]),
						   psprintf("GRANT CREATE ON DATABASE %s TO %s;", v[5], v[6]));
	findings = check_published(findings, rehome_conn_value(conn, PUBLISHED, ""), "source");
	findings = check_published(findings, rehome_spi_value(PUBLISHED, ""), "target");
	if (!rehome_inverse_may_bypass(conn))
		findings = finding(findings, "reverse", "info", v[0],
						   "triggers and foreign keys of the source fire when changes are brought back after cutover",
						   psprintf("On PostgreSQL 15 and later: GRANT SET ON PARAMETER session_replication_role TO %s;", v[6]));
	return findings;
}

static List *
check_source_table(List *findings, RehomeTableMap *map, char **fact, const char *role,
				   int version)
{
	char	   *name = rehome_remote_relation(rehome_remote_table(map->source));
	char		kind;

	if (!rehome_bool(fact[FACT_USAGE]))
		findings = finding(findings, "privilege", "error", name, psprintf("role %s may not use its schema", role),
						   psprintf("GRANT USAGE ON SCHEMA %s TO %s;",
									quote_identifier(rehome_remote_table(map->source)->schema), role));
	if (fact[FACT_OID] == NULL)
		return finding(findings, "source", "error", name, "the source has no such table",
					   "Check the foreign table's options schema_name and table_name.");
	kind = fact[FACT_KIND][0];
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		return finding(findings, "source", "error", name,
					   "is not a table; changes of views and foreign tables cannot be captured", NULL);
	if (kind == RELKIND_PARTITIONED_TABLE && version < 110000)
		findings = finding(findings, "source", "error", name,
						   "PostgreSQL 10 has no row triggers on partitioned tables", "Map each partition.");
	if (fact[FACT_PERSISTENCE][0] == 't')
		findings = finding(findings, "source", "error", name, "is a temporary table", NULL);
	if (fact[FACT_PERSISTENCE][0] == 'u')
		findings = finding(findings, "source", "warning", name,
						   "is unlogged: a crash of the source empties it, and no trigger tells",
						   "ALTER TABLE ... SET LOGGED, or verify after a crash.");
	if (rehome_bool(fact[FACT_CHILDREN]))
		findings = finding(findings, "source", "error", name, "has inheritance children", "Map each table by itself.");
	if (fact[FACT_MAPPED_PARENT] != NULL)
		findings = finding(findings, "source", "error", name,
						   psprintf("is a partition of %s, which is mapped too", fact[FACT_MAPPED_PARENT]),
						   "Map one or the other.");
	if (!rehome_bool(fact[FACT_SELECT]))
		findings = finding(findings, "privilege", "error", name, psprintf("role %s may not read it", role),
						   psprintf("GRANT SELECT ON TABLE %s TO %s;", name, role));
	if (!rehome_bool(fact[FACT_TRIGGER]))
		findings = finding(findings, "privilege", "error", name, psprintf("role %s may not create triggers on it", role),
						   psprintf("GRANT TRIGGER ON TABLE %s TO %s;", name, role));
	if (fact[FACT_UNREADABLE_PARTS] != NULL)
		findings = finding(findings, "privilege", "error", name,
						   psprintf("role %s may not read, or create triggers on, the partitions %s", role, fact[FACT_UNREADABLE_PARTS]),
						   psprintf("GRANT SELECT, TRIGGER, INSERT, UPDATE, DELETE ON TABLE %s TO %s;",
									fact[FACT_UNREADABLE_PARTS], role));
	if (rehome_bool(fact[FACT_ROW_SECURITY]))
		findings = finding(findings, "source", "error", name, psprintf("row security hides rows from role %s", role),
						   psprintf("ALTER ROLE %s BYPASSRLS;", role));
	if (!rehome_bool(fact[FACT_KEY_UNIQUE]))
		findings = finding(findings, "source", "warning", name,
						   psprintf("no unique index stands on (%s): rows that share a key cannot be told apart",
									rehome_quote_list(map->source_key, "")),
						   "Create a unique index, or choose another key.");
	if (!rehome_bool(fact[FACT_OWNED]))
		findings = finding(findings, "source", "warning", name,
						   "capture does not see writes of sessions in replica role, since the connecting role does not own the table",
						   psprintf("Avoid session_replication_role = replica there, or GRANT the owner to %s.", role));
	return findings;
}

/*
 * check_source_columns compares the foreign table with what is at the source.
 */
static List *
check_source_columns(List *findings, RehomeConn *conn, RehomeTableMap *map)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	char	   *name = rehome_remote_relation(table);
	Relation	rel = table_open(map->source, AccessShareLock);
	RehomeRows *rows = rehome_conn_query(conn,
										 "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
										 " WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped",
										 "t", name);

	for (int i = 0; i < table->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		bool		found = false;

		if (table->local[i] == NULL)
			continue;
		for (int r = 0; r < rows->n; r++)
		{
			char	   *type;

			if (strcmp(rows->value[r][0], table->remote[i]) != 0)
				continue;
			found = true;
			type = format_type_with_typemod(att->atttypid, att->atttypmod);
			if (strcmp(type, rows->value[r][1]) != 0)
				findings = finding(findings, "mapping", "warning", psprintf("%s.%s", name, table->remote[i]),
								   psprintf("is of type %s at the source, but the foreign table says %s",
											rows->value[r][1], type),
								   "Import the foreign table again.");
		}
		if (!found)
			findings = finding(findings, "mapping", "error", psprintf("%s.%s", name, table->remote[i]),
							   "the foreign table has a column that the source has not",
							   "Import the foreign table again.");
	}
	table_close(rel, AccessShareLock);
	return findings;
}

/*
 * check_filter lets the source parse a row filter, which it will evaluate.
 */
static List *
check_filter(List *findings, RehomeConn *conn, RehomeTableMap *map)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	StringInfoData sql;
	RehomeRemoteError error;

	if (map->filter == NULL)
		return findings;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 1 FROM ");
	rehome_remote_from(&sql, table, NULL, false);
	appendStringInfo(&sql, " WHERE (%s) LIMIT 0", map->filter);
	if (!rehome_conn_try(conn, sql.data, &error))
		findings = finding(findings, "mapping", "error", rehome_remote_relation(table),
						   psprintf("the source cannot evaluate the filter: %s", error.message),
						   "Use functions, operators and types that the source has.");
	return findings;
}

/*
 * check_target_since looks for what has been done to a target since it was
 * mapped; once its copy has begun, its indexes may be off it.
 */
static List *
check_target_since(List *findings, RehomeSlice *slice, RehomeTableMap *map, const char *name)
{
	Relation	rel = table_open(map->target, AccessShareLock);
	RehomeProblems problems;
	RehomeRows *rows;

	rehome_problems_init(&problems);
	if (slice->state == REHOME_PLANNED)
		rehome_define_check_key(rel, map->key, &problems);
	if (problems.n > 0)
		findings = finding(findings, "target", "error", name,
						   psprintf("its key does not identify rows any more: %s", problems.text.data),
						   unconstify(char *, problems.hint));
	if (rel->rd_rel->relkind == RELKIND_RELATION && find_inheritance_children(map->target, NoLock) != NIL)
		findings = finding(findings, "target", "error", name, "has inheritance children",
						   "Map each child, or use declarative partitioning.");
	table_close(rel, AccessShareLock);

	rows = rehome_spi("SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0"
					  " AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''"
					  " AND NOT EXISTS (SELECT FROM rehome.column_map c WHERE c.table_map_id = $2 AND c.\"column\" = a.attname)",
					  "oi", map->target, map->id);
	for (int i = 0; i < rows->n; i++)
		findings = finding(findings, "mapping", "error", psprintf("%s.%s", name, rows->value[i][0]),
						   "was added since the table was mapped, may not be null and has no default",
						   psprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL; or give it a default, or map it with rehome.map_column().",
									name, rows->value[i][0]));
	return findings;
}

/*
 * check_logged finds targets that a crash of this server empties.
 */
static List *
check_logged(List *findings, RehomeTableMap *map)
{
	char	   *unlogged = rehome_target_unlogged(map->target);

	return unlogged == NULL ? findings :
		finding(findings, "target", "error", unlogged,
				"is unlogged: a crash of this server would empty it, and nothing would tell",
				psprintf("ALTER TABLE %s SET LOGGED;", unlogged));
}

static List *
check_target(List *findings, RehomeSlice *slice, RehomeTableMap *map)
{
	char	   *name = rehome_relation_name(map->target);
	RehomeRows *rows;
	ListCell   *lc;

	rows = rehome_spi("SELECT c.relrowsecurity AND c.relforcerowsecurity, pg_has_role($2, c.relowner, 'USAGE'),"
					  " EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal"
					  "  AND g.tgenabled IN ('A', 'R') AND g.tgname NOT LIKE 'rehome\\_%'),"
					  " has_schema_privilege($2, c.relnamespace, 'CREATE')"
					  " FROM pg_class c WHERE c.oid = $1", "oo", map->target, slice->migration->owner);
	if (rows->n == 0)
		return finding(findings, "target", "error", rehome_relation_name(map->source),
					   psprintf("the target table it feeds, with OID %u, does not exist any more", map->target),
					   psprintf("SELECT rehome.drop_migration(%s); and define it anew.",
								quote_literal_cstr(slice->migration->name)));
	if (rehome_bool(rows->value[0][0]))
		findings = finding(findings, "target", "error", name, "row security is forced, even for the owner",
						   psprintf("ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", name));
	if (!rehome_bool(rows->value[0][1]))
		findings = finding(findings, "privilege", "error", name,
						   psprintf("role \"%s\" does not own it", GetUserNameFromId(slice->migration->owner, false)),
						   psprintf("ALTER TABLE %s OWNER TO %s;", name,
									quote_identifier(GetUserNameFromId(slice->migration->owner, false))));
	else if (slice->state == REHOME_PLANNED &&
			 rehome_spi_as(slice->migration->owner, true, psprintf("SELECT 1 FROM %s LIMIT 1", name))->n > 0)
		findings = finding(findings, "target", "error", name, "is not empty",
						   psprintf("TRUNCATE %s;", name));
	if (!rehome_bool(rows->value[0][3]))
		findings = finding(findings, "privilege", "error", name,
						   psprintf("role \"%s\" may not rebuild its indexes after the load",
									GetUserNameFromId(slice->migration->owner, false)),
						   psprintf("GRANT CREATE ON SCHEMA %s TO %s;",
									quote_identifier(get_namespace_name(get_rel_namespace(map->target))),
									quote_identifier(GetUserNameFromId(slice->migration->owner, false))));
	if (rehome_bool(rows->value[0][2]))
		findings = finding(findings, "target", "warning", name,
						   "has triggers that fire for replicated changes too; they will fire for every row brought here", NULL);
	if (slice->migration->live)
		findings = check_logged(findings, map);
	findings = check_target_since(findings, slice, map, name);
	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);
		bool		in_key = rehome_name_listed(map->key, column->name);

		if (column->kind != REHOME_SKIP)
			continue;
		if (in_key || rehome_spi("SELECT 1 FROM pg_attribute WHERE attrelid = $1 AND attname = $2::name"
								 " AND attnotnull AND NOT atthasdef AND attidentity = ''",
								 "ot", map->target, column->name)->n > 0)
			findings = finding(findings, "mapping", "error",
							   psprintf("%s.%s", name, quote_identifier(column->name)),
							   in_key ? "is part of the key but mapped from nothing" :
							   "may not be null, has no default and is mapped from nothing",
							   psprintf("SELECT rehome.map_column(%s, %s, %s, '<expression>');",
										quote_literal_cstr(slice->migration->name),
										quote_literal_cstr(name), quote_literal_cstr(column->name)));
	}
	return findings;
}

/*
 * key_is_mapped tells whether every key column has an expression; without,
 * there is nothing to restore it from, and check_target has said so.
 */
static bool
key_is_mapped(RehomeTableMap *map)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, map->columns)
		foreach(lc2, map->key)
			if (((RehomeColumnMap *) lfirst(lc))->kind == REHOME_SKIP &&
				strcmp(((RehomeColumnMap *) lfirst(lc))->name, lfirst(lc2)) == 0)
				return false;
	return true;
}

/*
 * rehome_reverse_losses returns the findings of the columns of a target that
 * cannot be carried back, or not for every row, as far as the rules say.
 */
List *
rehome_reverse_losses(RehomeTableMap *map)
{
	List	   *findings = NIL;
	ListCell   *lc;

	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);
		char	   *object = psprintf("%s.%s", rehome_relation_name(map->target), quote_identifier(column->name));
		char		policy = column->on_error ? column->on_error[0] : 'f';

		if (column->kind == REHOME_SKIP)
			findings = finding(findings, "reverse", "info", object,
							   "has no counterpart at the source: what is written to it stays at the target", NULL);
		else if (column->kind == REHOME_EXPRESSION && column->inverse == NULL)
			findings = finding(findings, "reverse", "warning", object,
							   "is computed, and has no inverse: what is written to it after cutover is lost by a rollback",
							   "Give rehome.map_column() an inverse if that is not enough.");
		else if (policy == 'n' || policy == 'd')
			findings = finding(findings, "reverse", "warning", object,
							   psprintf("is %s where the rule refuses a value: when such a row is written after cutover, the source gets that in the place of its own value",
										policy == 'n' ? "null" : "the default"),
							   "Correct those rows at the source, or have them quarantined.");
		else if (policy == 'q')
			findings = finding(findings, "reverse", "info", object,
							   "rows whose value the rule refuses are not at the target: the source keeps them as they are", NULL);
	}
	if (map->quarantine)
		findings = finding(findings, "reverse", "info", rehome_relation_name(map->target),
						   "rows that are refused are not at the target: the source keeps them as they are", NULL);
	return findings;
}

/* A table map whose rows are to be tried. */
typedef struct Try
{
	RehomeSlice *slice;
	RehomeInverse *inverse;
	RehomeRoundTrip *result;
} Try;

static void
try_rows(void *arg)
{
	Try		   *try = arg;

	try->result = rehome_round_trip(try->slice, try->inverse);
}

/*
 * check_round_trip names the columns of the source whose values do not come
 * back as they were, in a sample of rows.
 */
static List *
check_round_trip(List *findings, RehomeSlice *slice, RehomeTableMap *map)
{
	Try			try = {slice, rehome_inverse_compile(map, slice->migration->owner)};
	char	   *name = rehome_remote_relation(try.inverse->table);
	ErrorData  *error = rehome_attempt(try_rows, &try);

	if (error != NULL)
	{
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(error);
		return finding(findings, "reverse", "warning", name,
					   psprintf("its rows could not be tried there and back: %s", error->message), NULL);
	}
	for (int i = 0; i < try.inverse->ncolumns; i++)
		if (try.result->lost[i] > 0)
			findings = finding(findings, "reverse", "warning",
							   psprintf("%s.%s", name, quote_identifier(try.inverse->columns[i].remote)),
							   psprintf(INT64_FORMAT " of " INT64_FORMAT " rows that were tried do not come back as they are: %s",
										try.result->lost[i], try.result->rows, try.result->example[i]),
							   "Give the rule an inverse that restores the value, or be sure that such rows may change at the source when they are written after cutover.");
	return findings;
}

/*
 * check_reverse names the columns whose changes after cutover could not be
 * carried back.
 */
static List *
check_reverse(List *findings, RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeInverse *inverse = rehome_inverse_compile(map, slice->migration->owner);
	char	   *name = rehome_remote_relation(inverse->table);
	RehomeRows *rows;

	findings = list_concat(findings, rehome_reverse_losses(map));
	rows = rehome_conn_query(conn,
							 "SELECT a.attname, a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',"
							 " coalesce(to_jsonb(a)->>'attgenerated', '') <> ''"
							 " FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attnum > 0"
							 " AND NOT a.attisdropped ORDER BY a.attnum", "t", name);
	for (int r = 0; r < rows->n; r++)
	{
		RehomeInverseColumn *column = NULL;
		char	   *object = psprintf("%s.%s", name, quote_identifier(rows->value[r][0]));

		for (int i = 0; i < inverse->ncolumns; i++)
			if (strcmp(inverse->columns[i].remote, rows->value[r][0]) == 0)
				column = &inverse->columns[i];
		if (rehome_bool(rows->value[r][2]))
			continue;
		if (column != NULL && column->carried)
		{
			if (column->key > 0 && !column->key_only)
				findings = finding(findings, "reverse", "error", object,
								   "is part of the key, but its inverse reads more than the target's key",
								   "Deleted rows leave nothing but their key: restore it from that.");
			continue;
		}
		if (column != NULL && column->key > 0)
			findings = finding(findings, "reverse", "error", object,
							   "is part of the key and cannot be restored from the target: no change could be carried back",
							   "Give rehome.map_column() an inverse, or cut over with one_way => true.");
		else if (rehome_bool(rows->value[r][1]))
			findings = finding(findings, "reverse", "error", object,
							   "cannot be restored from the target, may not be null and has no default: rows inserted after cutover could not be carried back",
							   "Give rehome.map_column() an inverse, give the source column a default, or cut over with one_way => true.");
		else
			findings = finding(findings, "reverse", "warning", object,
							   "is not carried back after cutover: changed rows keep their value, new rows get the default",
							   "Give rehome.map_column() an inverse if that is not enough.");
	}
	return findings;
}

/*
 * check_derived names derived data that nothing carries back.
 */
static List *
check_derived(List *findings, RehomeSlice *slice)
{
	ListCell   *lc;

	foreach(lc, rehome_derivations_get(slice))
	{
		RehomeDerivation *derivation = lfirst(lc);

		if (derivation->write_back == NULL)
			findings = finding(findings, "reverse", "warning", rehome_relation_name(derivation->target),
							   psprintf("%s: derived (\"%s\"), and derived anew by a rollback: what is written to it after cutover is lost",
										derivation->whole ? "its rows" : rehome_quote_list(derivation->columns, ""), derivation->name),
							   "Give rehome.add_derived() a function to write back, if that is not enough.");
	}
	return findings;
}

/*
 * check_sequences looks whether the sequences of mapped columns can be read
 * and set, and names those of the same schemas that nothing carries.
 */
static List *
check_sequences(List *findings, RehomeConn *conn, RehomeRows *facts, const char *role)
{
	List	   *oids = NIL;
	RehomeRows *rows;

	for (int i = 0; i < facts->n; i++)
		if (facts->value[i][FACT_OID] != NULL)
			oids = lappend(oids, facts->value[i][FACT_OID]);
	rows = rehome_conn_query(conn,
							 "WITH t AS (SELECT oid FROM unnest($1::oid[]) AS oid)"
							 " SELECT format('%I.%I', n.nspname, s.relname), has_sequence_privilege(s.oid, 'SELECT'), has_sequence_privilege(s.oid, 'UPDATE'),"
							 " EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid"
							 "   AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM t) AND d.deptype IN ('a', 'i'))"
							 " OR EXISTS (SELECT FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid"
							 "   WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass"
							 "   AND d.refobjid = s.oid AND f.adrelid IN (SELECT oid FROM t))"
							 " FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace WHERE s.relkind = 'S' AND s.relnamespace IN"
							 "  (SELECT relnamespace FROM pg_class WHERE oid IN (SELECT oid FROM t)) ORDER BY 1",
							 "t", rehome_name_array(oids));
	for (int i = 0; i < rows->n; i++)
	{
		char	   *name = rows->value[i][0];

		if (!rehome_bool(rows->value[i][3]))
			findings = finding(findings, "sequence", "warning", name,
							   "feeds no mapped column and is not carried over",
							   "Set its counterpart by hand in the transaction of the cutover, if there is one.");
		else if (!rehome_bool(rows->value[i][1]) || !rehome_bool(rows->value[i][2]))
			findings = finding(findings, "privilege", "error", name,
							   psprintf("role %s may not read and set the sequence", role),
							   psprintf("GRANT SELECT, UPDATE ON SEQUENCE %s TO %s;", name, role));
	}
	return findings;
}

/*
 * rehome_preflight_switch returns what stands in the way of cutover and
 * rollback.
 */
List *
rehome_preflight_switch(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	List	   *findings = NIL;
	RehomeRows *facts = source_facts(conn, maps);
	char	   *role = rehome_conn_value(conn, "SELECT quote_ident(current_user)", "");
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	  **fact = facts->value[foreach_current_index(lc)];
		char	   *name = rehome_remote_relation(rehome_remote_table(map->source));

		if (fact[FACT_OID] == NULL)
			continue;
		if (!rehome_bool(fact[FACT_WRITE]))
			findings = finding(findings, "privilege", "error", name,
							   psprintf("role %s may not lock it for the switch, nor bring changes back", role),
							   psprintf("GRANT INSERT, UPDATE, DELETE ON TABLE %s TO %s;", name, role));
		foreach(lc2, rehome_sequences_left(map))
			findings = finding(findings, "sequence", "warning", lfirst(lc2),
							   "feeds a column that a rule fills with other values than the source's, and is not carried over",
							   "Set it by hand in the transaction of the cutover.");
		if (key_is_mapped(map) && rehome_bool(fact[FACT_USAGE]))
			findings = check_reverse(findings, conn, slice, map);
	}
	findings = check_derived(findings, slice);
	findings = check_sequences(findings, conn, facts, role);
	foreach(lc, findings)
		((RehomeFinding *) lfirst(lc))->at_switch = true;
	return findings;
}

/* A table map to compile. */
typedef struct Compile
{
	RehomeTableMap *map;
	Oid			owner;
} Compile;

static void
compile(void *arg)
{
	(void) rehome_mapping_compile(((Compile *) arg)->map, ((Compile *) arg)->owner);
}

/*
 * compiles tells whether a map still fits its tables; if not, why is a
 * finding.
 */
static bool
compiles(List **findings, RehomeTableMap *map, Oid owner)
{
	Compile		job = {map, owner};
	ErrorData  *error;

	if (!key_is_mapped(map))
		return true;
	error = rehome_attempt(compile, &job);
	if (error == NULL)
		return true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	*findings = finding(*findings, "mapping", "error", rehome_relation_name(map->target),
						psprintf("its map does not fit any more: %s", error->message),
						"Take back what was done to the tables, or state the column anew with rehome.map_column().");
	return false;
}

/*
 * rehome_preflight_fits tells whether a map can be compiled.
 */
bool
rehome_preflight_fits(RehomeTableMap *map, Oid owner)
{
	List	   *findings = NIL;

	return rehome_table_map_exists(map) && key_is_mapped(map) && compiles(&findings, map, owner);
}

/*
 * rehome_preflight_slice returns all findings of a slice; with try_rows, also
 * what becomes of rows on their way there and back.
 */
List *
rehome_preflight_slice(RehomeSlice *slice, bool try_rows)
{
	List	   *findings = NIL;
	List	   *maps = rehome_table_maps_get(slice);
	RehomeConn *conn;
	RehomeRows *facts;
	char	   *role;
	ListCell   *lc;

	if (maps == NIL)
		return finding(NIL, "mapping", "error", slice->name, "the slice has no tables",
					   psprintf("SELECT rehome.add_table(%s, '<source>', '<target>', slice => %s);",
								quote_literal_cstr(slice->migration->name), quote_literal_cstr(slice->name)));
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		findings = check_target(findings, slice, map);
		if (get_rel_name(map->source) == NULL)
			findings = finding(findings, "mapping", "error", rehome_relation_name(map->target),
							   psprintf("the relation it is fed from, with OID %u, does not exist any more", map->source),
							   psprintf("SELECT rehome.drop_migration(%s); and define it anew.",
										quote_literal_cstr(slice->migration->name)));
		if (!rehome_table_map_exists(map) || !compiles(&findings, map, slice->migration->owner))
			maps = foreach_delete_current(maps, lc);
	}
	foreach(lc, rehome_derived_targets(slice))
		if (get_rel_name(((RehomeTableMap *) lfirst(lc))->target) != NULL)
			findings = check_logged(findings, lfirst(lc));
	if (!slice->migration->live || maps == NIL)
		return findings;

	conn = rehome_conn_open(slice->migration->serverid, slice->migration->owner,
							psprintf("preflight %s/%s", slice->migration->name, slice->name));
	role = rehome_conn_value(conn, "SELECT quote_ident(current_user)", "");
	findings = check_connection(findings, conn, slice);
	facts = source_facts(conn, maps);
	foreach(lc, maps)
		findings = check_source_table(findings, lfirst(lc), facts->value[foreach_current_index(lc)],
									  role, rehome_conn_version(conn));
	foreach(lc, maps)
		if (facts->value[foreach_current_index(lc)][FACT_OID] != NULL &&
			rehome_bool(facts->value[foreach_current_index(lc)][FACT_USAGE]))
			findings = check_filter(check_source_columns(findings, conn, lfirst(lc)), conn, lfirst(lc));
	findings = list_concat(findings, rehome_preflight_switch(conn, slice, maps));
	foreach(lc, maps)
	{
		char	  **fact = facts->value[foreach_current_index(lc)];

		if (try_rows && fact[FACT_OID] != NULL && rehome_bool(fact[FACT_USAGE]) && rehome_bool(fact[FACT_SELECT]) &&
			key_is_mapped(lfirst(lc)))
			findings = check_round_trip(findings, slice, lfirst(lc));
	}
	rehome_conn_close(conn);
	return findings;
}

/*
 * rehome_preflight_require raises with all errors that keep a slice from
 * being started.  What only stands in the way of the switch does not.  What
 * was looked at, some 70 kB a table, is forgotten: a copy may take hours.
 */
void
rehome_preflight_require(RehomeSlice *slice)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome preflight", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RehomeProblems problems;
	ListCell   *lc;

	rehome_problems_init(&problems);
	foreach(lc, rehome_preflight_slice(slice, false))
	{
		RehomeFinding *f = lfirst(lc);

		if (strcmp(f->severity, "error") == 0 && !f->at_switch)
			rehome_problem(&problems, ERRCODE_REHOME_PREFLIGHT, f->hint, "%s: %s", f->object, f->detail);
	}
	rehome_problems_raise(&problems, "slice \"%s\" of migration \"%s\" cannot be started",
						  slice->name, slice->migration->name);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

PG_FUNCTION_INFO_V1(rehome_preflight);

/*
 * rehome_preflight(migration name) returns all findings of all slices.
 */
Datum
rehome_preflight(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RehomeCall	call;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	rehome_call_begin(&call, fcinfo);
	foreach(lc, rehome_slices_get(rehome_migration_argument(fcinfo), NULL))
	{
		ListCell   *lc2;

		foreach(lc2, rehome_preflight_slice(lfirst(lc), true))
		{
			RehomeFinding *f = lfirst(lc2);
			Datum		values[5];
			bool		nulls[5] = {false};

			values[0] = CStringGetTextDatum(f->check);
			values[1] = CStringGetTextDatum(f->severity);
			values[2] = CStringGetTextDatum(f->object);
			values[3] = CStringGetTextDatum(f->detail);
			nulls[4] = f->hint == NULL;
			values[4] = f->hint ? CStringGetTextDatum(f->hint) : (Datum) 0;
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	rehome_call_end(&call);
	return (Datum) 0;
}
