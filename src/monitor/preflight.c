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
#include "derive/derive.h"
#include "errors.h"
#include "funcapi.h"
#include "mapping/mapping.h"
#include "miscadmin.h"
#include "monitor/preflight_private.h"
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

/*
 * rehome_finding adds a finding, and returns them all.
 */
List *
rehome_finding(List *findings, const char *check, const char *severity, const char *object,
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
 * rehome_source_facts runs source_facts.sql for the maps.
 */
RehomeRows *
rehome_source_facts(RehomeConn *conn, List *maps)
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

/*
 * rehome_source_columns returns the columns of each of the facts' tables, as
 * RehomeRows.
 */
List *
rehome_source_columns(RehomeConn *conn, RehomeRows *facts)
{
	List	   *oids = NIL;
	RehomeRows *rows;

	for (int i = 0; i < facts->n; i++)
		oids = lappend(oids, facts->value[i][FACT_OID] ? facts->value[i][FACT_OID] : "0");
	rows = rehome_conn_query(conn, "SELECT a.attname, format_type(a.atttypid, a.atttypmod),"
							 " a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',"
							 " coalesce(to_jsonb(a)->>'attgenerated', '') <> '', u.n"
							 " FROM unnest($1::oid[]) WITH ORDINALITY AS u(oid, n)"
							 " JOIN pg_attribute a ON a.attrelid = u.oid"
							 " WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY u.n, a.attnum", "t", rehome_name_array(oids));
	return rehome_rows_split(rows, facts->n);
}

/* Publications of all tables on one side, and what is to be said of them. */
#define PUBLISHED "SELECT string_agg(quote_ident(pubname), ', ' ORDER BY 1) FROM pg_publication WHERE puballtables"

static List *
check_published(List *findings, const char *published, const char *side)
{
	return published == NULL ? findings :
		rehome_finding(findings, side, "warning", published,
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
		findings = rehome_finding(findings, "source", "error", v[0],
								  psprintf("the source is PostgreSQL %d.%d", rehome_conn_version(conn) / 10000,
										   rehome_conn_version(conn) / 100 % 100),
								  "Version 10 is the oldest that can be a source.");
	if (rehome_bool(v[2]))
		findings = rehome_finding(findings, "source", "error", v[0],
								  "the source is a standby; triggers cannot be created there",
								  "Point the server at its primary.");
	if (!rehome_bool(v[3]))
		findings = rehome_finding(findings, "privilege", "error", v[0],
								  psprintf("role \"%s\" may not create schema rehome_source", v[1]),
								  psprintf("GRANT CREATE ON DATABASE %s TO %s;", v[5], v[6]));
	findings = check_published(findings, rehome_conn_value(conn, PUBLISHED, ""), "source");
	findings = check_published(findings, rehome_spi_value(PUBLISHED, ""), "target");
	if (!rehome_inverse_may_bypass(conn))
		findings = rehome_finding(findings, "reverse", "info", v[0],
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
		findings = rehome_finding(findings, "privilege", "error", name, psprintf("role %s may not use its schema", role),
								  psprintf("GRANT USAGE ON SCHEMA %s TO %s;",
										   quote_identifier(rehome_remote_table(map->source)->schema), role));
	if (fact[FACT_OID] == NULL)
		return rehome_finding(findings, "source", "error", name, "the source has no such table",
							  "Check the foreign table's options schema_name and table_name.");
	kind = fact[FACT_KIND][0];
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		return rehome_finding(findings, "source", "error", name,
							  "is not a table; changes of views and foreign tables cannot be captured", NULL);
	if (kind == RELKIND_PARTITIONED_TABLE && version < 110000)
		findings = rehome_finding(findings, "source", "error", name,
								  "PostgreSQL 10 has no row triggers on partitioned tables", "Map each partition.");
	if (fact[FACT_PERSISTENCE][0] == 't')
		findings = rehome_finding(findings, "source", "error", name, "is a temporary table", NULL);
	if (fact[FACT_PERSISTENCE][0] == 'u')
		findings = rehome_finding(findings, "source", "warning", name,
								  "is unlogged: a crash of the source empties it, and no trigger tells",
								  "ALTER TABLE ... SET LOGGED, or verify after a crash.");
	if (rehome_bool(fact[FACT_CHILDREN]))
		findings = rehome_finding(findings, "source", "error", name, "has inheritance children",
								  "Move the children's rows into it, or make it a partitioned table, at the source; or leave the table out: cancel the slice and define it without it.");
	if (fact[FACT_MAPPED_PARENT] != NULL)
		findings = rehome_finding(findings, "source", "error", name,
								  psprintf("is a partition of %s, which is mapped too", fact[FACT_MAPPED_PARENT]),
								  "Map one or the other.");
	if (!rehome_bool(fact[FACT_SELECT]))
		findings = rehome_finding(findings, "privilege", "error", name, psprintf("role %s may not read it", role),
								  psprintf("GRANT SELECT ON TABLE %s TO %s;", name, role));
	if (!rehome_bool(fact[FACT_TRIGGER]))
		findings = rehome_finding(findings, "privilege", "error", name, psprintf("role %s may not create triggers on it", role),
								  psprintf("GRANT TRIGGER ON TABLE %s TO %s;", name, role));
	if (fact[FACT_UNREADABLE_PARTS] != NULL)
		findings = rehome_finding(findings, "privilege", "error", name,
								  psprintf("role %s may not read, or create triggers on, the partitions %s", role, fact[FACT_UNREADABLE_PARTS]),
								  psprintf("GRANT SELECT, TRIGGER, INSERT, UPDATE, DELETE ON TABLE %s TO %s;",
										   fact[FACT_UNREADABLE_PARTS], role));
	if (fact[FACT_FOREIGN_PARTS] != NULL)
		findings = rehome_finding(findings, "source", "error", name,
								  psprintf("has partitions whose rows are on another server: %s", fact[FACT_FOREIGN_PARTS]),
								  "Detach them, and move them from where they are.");
	if (rehome_bool(fact[FACT_ROW_SECURITY]))
		findings = rehome_finding(findings, "source", "error", name, psprintf("row security hides rows from role %s", role),
								  psprintf("ALTER ROLE %s BYPASSRLS;", role));
	if (!rehome_bool(fact[FACT_KEY_UNIQUE]))
		findings = rehome_finding(findings, "source", "warning", name,
								  psprintf("no unique index stands on (%s): rows that share a key cannot be told apart",
										   rehome_quote_list(map->source_key, "")),
								  "Create a unique index, or choose another key.");
	if (rehome_bool(fact[FACT_SUBSCRIBED]))
		findings = rehome_finding(findings, "source", "error", name,
								  "a subscription writes to it, in replica role, which neither capture nor fence see, since the connecting role does not own the table",
								  psprintf("GRANT the owner to %s; or drop the subscription, or move the table from where that gets it.", role));
	else if (!rehome_bool(fact[FACT_OWNED]))
		findings = rehome_finding(findings, "source", "warning", name,
								  "capture does not see writes of sessions in replica role, since the connecting role does not own the table",
								  psprintf("Avoid session_replication_role = replica there, or GRANT the owner to %s.", role));
	return findings;
}

/*
 * check_source_columns compares the foreign table with what is at the source.
 */
static List *
check_source_columns(List *findings, RehomeTableMap *map, RehomeRows *columns)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	char	   *name = rehome_remote_relation(table);
	Relation	rel = table_open(map->source, AccessShareLock);

	for (int i = 0; i < table->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		bool		found = false;

		if (table->local[i] == NULL)
			continue;
		for (int r = 0; r < columns->n; r++)
		{
			char	   *type;

			if (strcmp(columns->value[r][COLUMN_NAME], table->remote[i]) != 0)
				continue;
			found = true;
			type = format_type_with_typemod(att->atttypid, att->atttypmod);
			if (strcmp(type, columns->value[r][COLUMN_TYPE]) != 0)
				findings = rehome_finding(findings, "mapping", "warning", psprintf("%s.%s", name, table->remote[i]),
										  psprintf("is of type %s at the source, but the foreign table says %s",
												   columns->value[r][COLUMN_TYPE], type),
										  "Import the foreign table again.");
		}
		if (!found)
			findings = rehome_finding(findings, "mapping", "error", psprintf("%s.%s", name, table->remote[i]),
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
		findings = rehome_finding(findings, "mapping", "error", rehome_remote_relation(table),
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
	static SPIPlanPtr plan = NULL;
	Relation	rel = table_open(map->target, AccessShareLock);
	RehomeProblems problems;
	RehomeRows *rows;

	rehome_problems_init(&problems);
	if (slice->state == REHOME_PLANNED)
		rehome_define_check_key(rel, map->key, &problems);
	if (problems.n > 0)
		findings = rehome_finding(findings, "target", "error", name,
								  psprintf("its key does not identify rows any more: %s", problems.text.data),
								  unconstify(char *, problems.hint));
	if (rel->rd_rel->relkind == RELKIND_RELATION && find_inheritance_children(map->target, NoLock) != NIL)
		findings = rehome_finding(findings, "target", "error", name, "has inheritance children",
								  "Map each child, or use declarative partitioning.");
	table_close(rel, AccessShareLock);

	rows = rehome_spi_kept(&plan, "SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0"
						   " AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''"
						   " AND NOT EXISTS (SELECT FROM rehome.column_map c WHERE c.table_map_id = $2 AND c.\"column\" = a.attname)",
						   "oi", map->target, map->id);
	for (int i = 0; i < rows->n; i++)
		findings = rehome_finding(findings, "mapping", "error", psprintf("%s.%s", name, rows->value[i][0]),
								  "was added since the table was mapped, may not be null and has no default",
								  psprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL; or give it a default, or map it with rehome.map_column().",
										   name, rows->value[i][0]));
	return findings;
}

/*
 * check_identity finds what of a target is published with its changes, and
 * has nothing that tells subscribers which row is meant: PostgreSQL refuses
 * UPDATE and DELETE there.
 */
static List *
check_identity(List *findings, RehomeTableMap *map)
{
	RehomeRows *rows = rehome_target_unidentified(map);

	for (int i = 0; i < rows->n; i++)
		findings = rehome_finding(findings, "target", "error", rows->value[i][0],
								  psprintf("is published, with its changes, by %s, and has no replica identity: updates and deletes of its rows are refused",
										   rows->value[i][1]),
								  psprintf("ALTER TABLE %s REPLICA IDENTITY USING INDEX ...; or FULL.", rows->value[i][0]));
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
		rehome_finding(findings, "target", "error", unlogged,
					   "is unlogged: a crash of this server would empty it, and nothing would tell",
					   psprintf("ALTER TABLE %s SET LOGGED;", unlogged));
}

/*
 * check_key names the columns of a target's key that may be the same for two rows
 * of the source: they are computed, with nothing that leads back, or their type has
 * less to say than the source's.  What is merely compared differently a batch sees
 * for itself (apply/taken.c).
 */
static List *
check_key(List *findings, RehomeTableMap *map, const char *name)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *rows;

	rows = rehome_spi_kept(&plan, "SELECT quote_ident(c.\"column\"), c.inverse IS NULL AND quote_ident(s.attname) IS DISTINCT FROM c.expression FROM rehome.column_map c"
						   " JOIN rehome.table_map t ON t.id = c.table_map_id"
						   " JOIN pg_attribute a ON a.attrelid = t.target AND a.attname = c.\"column\" AND NOT a.attisdropped"
						   " JOIN pg_type y ON y.oid = a.atttypid"
						   /* of a cast, or a copy that is validated, what its rule says */
						   " LEFT JOIN pg_attribute s ON s.attrelid = t.source AND NOT s.attisdropped AND CASE WHEN c.kind IN ('copy', 'cast') AND c.inverse IS NOT NULL"
						   "  THEN s.attname = coalesce(c.source_column, c.\"column\") ELSE quote_ident(s.attname) = c.expression END"
						   " WHERE t.id = $1 AND c.\"column\" = ANY (t.key) AND c.expression IS NOT NULL"
						   " AND CASE WHEN s.attname IS NULL OR c.kind NOT IN ('copy', 'cast') THEN c.inverse IS NULL"
						   /* of a numeric the lower bits are its scale */
						   "  WHEN s.atttypid = a.atttypid AND s.atttypid = 'numeric'::regtype"
						   "   THEN a.atttypmod >= 0 AND (s.atttypmod < 0 OR ((a.atttypmod - 4) & 2047) < ((s.atttypmod - 4) & 2047))"
						   "  WHEN s.atttypid IN ('time'::regtype, 'timetz'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'interval'::regtype,"
						   "    'float4'::regtype, 'float8'::regtype, 'numeric'::regtype)"
						   "   THEN a.atttypid <> s.atttypid AND y.typcategory <> 'S' OR a.atttypid = s.atttypid AND a.atttypmod >= 0 AND a.atttypmod <> s.atttypmod"
						   "  ELSE a.atttypid IN ('name'::regtype, '\"char\"'::regtype, 'bpchar'::regtype, 'float4'::regtype, 'float8'::regtype)"
						   "   AND a.atttypid <> s.atttypid END ORDER BY 1", "i", map->id);
	for (int r = 0; r < rows->n; r++)
		findings = rehome_finding(findings, "mapping", "warning", psprintf("%s.%s", name, rows->value[r][0]),
								  psprintf("is part of the key, and %s: two rows of the source may get the same, and the one that changes last takes the place of the other",
										   rehome_bool(rows->value[r][1]) ? "computed without an inverse" : "of a type that has less to say than the source's"),
								  "Make sure that this cannot be; a verification of all rows tells.");
	return findings;
}

static List *
check_target(List *findings, RehomeSlice *slice, RehomeTableMap *map)
{
	static SPIPlanPtr plan = NULL;
	char	   *name = rehome_relation_name(map->target);
	RehomeRows *rows;
	ListCell   *lc;

	rows = rehome_spi_kept(&plan, "SELECT c.relrowsecurity AND c.relforcerowsecurity, pg_has_role($2, c.relowner, 'USAGE'),"
						   " EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal"
						   "  AND g.tgenabled IN ('A', 'R') AND g.tgname NOT LIKE 'rehome\\_%'),"
						   " has_schema_privilege($2, c.relnamespace, 'CREATE')"
						   " FROM pg_class c WHERE c.oid = $1", "oo", map->target, slice->migration->owner);
	if (rows->n == 0)
		return rehome_finding(findings, "target", "error", rehome_relation_name(map->source),
							  psprintf("the target table it feeds, with OID %u, does not exist any more", map->target),
							  psprintf("SELECT rehome.drop_migration(%s); and define it anew.",
									   quote_literal_cstr(slice->migration->name)));
	if (rehome_bool(rows->value[0][0]))
		findings = rehome_finding(findings, "target", "error", name, "row security is forced, even for the owner",
								  psprintf("ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", name));
	if (!rehome_bool(rows->value[0][1]))
		findings = rehome_finding(findings, "privilege", "error", name,
								  psprintf("role \"%s\" does not own it", GetUserNameFromId(slice->migration->owner, false)),
								  psprintf("ALTER TABLE %s OWNER TO %s;", name,
										   quote_identifier(GetUserNameFromId(slice->migration->owner, false))));
	else if (slice->state == REHOME_PLANNED && !rehome_target_is_empty(map->target, slice->migration->owner))
		findings = rehome_finding(findings, "target", "error", name, "is not empty",
								  psprintf("TRUNCATE %s;", name));
	if (!rehome_bool(rows->value[0][3]))
		findings = rehome_finding(findings, "privilege", "error", name,
								  psprintf("role \"%s\" may not rebuild its indexes after the load",
										   GetUserNameFromId(slice->migration->owner, false)),
								  psprintf("GRANT CREATE ON SCHEMA %s TO %s;",
										   quote_identifier(get_namespace_name(get_rel_namespace(map->target))),
										   quote_identifier(GetUserNameFromId(slice->migration->owner, false))));
	if (rehome_bool(rows->value[0][2]))
		findings = rehome_finding(findings, "target", "warning", name,
								  "has triggers that fire for replicated changes too; they will fire for every row brought here", NULL);
	if (slice->migration->live)
		findings = check_identity(check_logged(findings, map), map);
	findings = check_target_since(findings, slice, map, name);
	findings = check_key(findings, map, name);
	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);
		bool		in_key = rehome_name_listed(map->key, column->name);

		if (column->kind != REHOME_SKIP)
			continue;
		if (in_key || rehome_spi("SELECT 1 FROM pg_attribute WHERE attrelid = $1 AND attname = $2::name"
								 " AND attnotnull AND NOT atthasdef AND attidentity = ''",
								 "ot", map->target, column->name)->n > 0)
			findings = rehome_finding(findings, "mapping", "error",
									  psprintf("%s.%s", name, quote_identifier(column->name)),
									  in_key ? "is part of the key but mapped from nothing" :
									  "may not be null, has no default and is mapped from nothing",
									  psprintf("SELECT rehome.map_column(%s, %s, %s, '<expression>');",
											   quote_literal_cstr(slice->migration->name),
											   quote_literal_cstr(name), quote_literal_cstr(column->name)));
	}
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

	if (!rehome_key_is_mapped(map))
		return true;
	error = rehome_attempt(compile, &job);
	if (error == NULL)
		return true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	*findings = rehome_finding(*findings, "mapping", "error", rehome_relation_name(map->target),
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

	return rehome_table_map_exists(map) && rehome_key_is_mapped(map) && compiles(&findings, map, owner);
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
	List	   *columns;
	char	   *role;
	ListCell   *lc;
	ListCell   *its;

	if (maps == NIL)
		return rehome_finding(NIL, "mapping", try_rows && rehome_slice_unused(slice) ? "info" : "error", slice->name, "the slice has no tables",
							  psprintf("SELECT rehome.add_table(%s, '<source>', '<target>', slice => %s);",
									   quote_literal_cstr(slice->migration->name), quote_literal_cstr(slice->name)));
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		findings = check_target(findings, slice, map);
		if (get_rel_name(map->source) == NULL)
			findings = rehome_finding(findings, "mapping", "error", rehome_relation_name(map->target),
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

	conn = rehome_migration_connect(slice->migration,
									psprintf("preflight %s/%s", slice->migration->name, slice->name));
	role = rehome_conn_value(conn, "SELECT quote_ident(current_user)", "");
	findings = check_connection(findings, conn, slice);
	facts = rehome_source_facts(conn, maps);
	foreach(lc, maps)
		findings = check_source_table(findings, lfirst(lc), facts->value[foreach_current_index(lc)],
									  role, rehome_conn_version(conn));
	columns = rehome_source_columns(conn, facts);
	forboth(lc, maps, its, columns)
		if (facts->value[foreach_current_index(lc)][FACT_OID] != NULL &&
			rehome_bool(facts->value[foreach_current_index(lc)][FACT_USAGE]))
			findings = check_filter(check_source_columns(findings, lfirst(lc), lfirst(its)), conn, lfirst(lc));
	findings = rehome_check_keys(findings, conn, slice, maps);
	findings = list_concat(findings, rehome_check_switch(conn, slice, maps, facts, columns));
	foreach(lc, maps)
	{
		char	  **fact = facts->value[foreach_current_index(lc)];

		if (try_rows && fact[FACT_OID] != NULL && rehome_bool(fact[FACT_USAGE]) && rehome_bool(fact[FACT_SELECT]) &&
			rehome_key_is_mapped(lfirst(lc)))
			findings = rehome_check_round_trip(findings, slice, lfirst(lc));
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
 * rehome_preflight(migration name) returns all findings of all slices that
 * something can still stand in the way of.
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

		if (rehome_slice_ended(lfirst(lc)))
			continue;
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
