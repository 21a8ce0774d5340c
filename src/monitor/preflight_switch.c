/*-------------------------------------------------------------------------
 *
 * preflight_switch.c
 *	  What of preflight concerns the switch, and the way back: cutover() asks
 *	  for it once more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/inverse.h"
#include "capture/capture.h"
#include "catalog/pg_type.h"
#include "cutover/cutover.h"
#include "derive/derive.h"
#include "errors.h"
#include "miscadmin.h"
#include "monitor/preflight_private.h"
#include "monitor/round_trip.h"
#include "remote/query.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * rehome_key_is_mapped tells whether every key column has an expression; without,
 * there is nothing to restore it from, and check_target has said so.
 */
bool
rehome_key_is_mapped(RehomeTableMap *map)
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
 * takes_several tells whether the source has one value where the target's key has
 * several: a text is a number there, say, or loses the blanks at its end.
 */
static bool
takes_several(RehomeTableMap *map, RehomeColumnMap *column)
{
	char	   *copied;
	AttrNumber	attnum;
	Oid			type;
	Oid			source_type;
	char		category;
	char		source_category;
	bool		preferred;

	if (!rehome_name_listed(map->key, column->name) || (copied = rehome_copied_column(column)) == NULL ||
		(attnum = get_attnum(map->source, copied)) == InvalidAttrNumber)
		return false;
	type = getBaseType(get_atttype(map->target, get_attnum(map->target, column->name)));
	source_type = getBaseType(get_atttype(map->source, attnum));
	get_type_category_preferred(type, &category, &preferred);
	get_type_category_preferred(source_type, &source_category, &preferred);
	return (source_type == BPCHAROID && type != BPCHAROID) ||
		(category == TYPCATEGORY_STRING && source_category != TYPCATEGORY_STRING && source_category != TYPCATEGORY_ENUM);
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
			findings = rehome_finding(findings, "reverse", "info", object,
									  "has no counterpart at the source: what is written to it stays at the target", NULL);
		else if (column->kind == REHOME_EXPRESSION && column->inverse == NULL)
			findings = rehome_finding(findings, "reverse", "warning", object,
									  "is computed, and has no inverse: what is written to it after cutover is lost by a rollback",
									  "Give rehome.map_column() an inverse if that is not enough.");
		else if (strcmp(column->rule, "timestamp") == 0 && strstr(column->inverse, "floor(") != NULL)
			findings = rehome_finding(findings, "reverse", "info", object,
									  "is a number of units at the source: what is left of a unit is not carried back", NULL);
		else if (policy == 'n' || policy == 'd')
			findings = rehome_finding(findings, "reverse", "warning", object,
									  psprintf("is %s where the rule refuses a value: when such a row is written after cutover, the source gets that in the place of its own value",
											   policy == 'n' ? "null" : "the default"),
									  "Correct those rows at the source, or have them quarantined.");
		else if (policy == 'q')
			findings = rehome_finding(findings, "reverse", "info", object,
									  "rows whose value the rule refuses are not at the target: the source keeps them as they are", NULL);
		if (takes_several(map, column))
			findings = rehome_finding(findings, "reverse", "warning", object,
									  "is part of the key, and the source's type takes several of its values for one ('007' and '7', 'a' and 'a '): of two such rows written after cutover one takes the place of the other there",
									  "Have the target check that it is written as the source does.");
	}
	if (map->quarantine)
		findings = rehome_finding(findings, "reverse", "info", rehome_relation_name(map->target),
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
 * rehome_check_round_trip names the columns of the source whose values do not come
 * back as they were, in a sample of rows.
 */
List *
rehome_check_round_trip(List *findings, RehomeSlice *slice, RehomeTableMap *map)
{
	Try			try = {slice, rehome_inverse_compile(map, slice->migration->owner)};
	char	   *name = rehome_remote_relation(try.inverse->table);
	ErrorData  *error = rehome_attempt(try_rows, &try);

	if (error != NULL)
	{
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(error);
		return rehome_finding(findings, "reverse", "warning", name,
							  psprintf("its rows could not be tried there and back: %s", error->message), NULL);
	}
	for (int i = 0; i < try.inverse->ncolumns; i++)
		if (try.result->lost[i] > 0)
			findings = rehome_finding(findings, "reverse", "warning",
									  psprintf("%s.%s", name, quote_identifier(try.inverse->columns[i].remote)),
									  psprintf(INT64_FORMAT " of " INT64_FORMAT " rows that were tried do not come back as they are: %s",
											   try.result->lost[i], try.result->rows, try.result->example[i]),
									  "Give the rule an inverse that restores the value, or be sure that such rows may change at the source when they are written after cutover.");
	return findings;
}

/*
 * check_stage looks whether the source can have a table of the same columns and
 * one more, rehome_op, in which rows are staged on their way back.
 */
static List *
check_stage(List *findings, const char *name, RehomeRows *columns)
{
	if (columns->n >= MaxHeapAttributeNumber)
		findings = rehome_finding(findings, "reverse", "error", name,
								  psprintf("has %d columns: there is no room for one more where its rows would be staged on their way back", columns->n),
								  "Drop a column that is not needed, or cut over with one_way => true.");
	for (int r = 0; r < columns->n; r++)
		if (strcmp(columns->value[r][COLUMN_NAME], "rehome_op") == 0)
			findings = rehome_finding(findings, "reverse", "error", psprintf("%s.rehome_op", name),
									  "has the name of a column of ours where rows would be staged on their way back",
									  "Rename the column, or cut over with one_way => true.");
	return findings;
}

/*
 * check_reverse names the columns whose changes after cutover could not be
 * carried back.
 */
static List *
check_reverse(List *findings, RehomeSlice *slice, RehomeTableMap *map, RehomeRows *columns)
{
	RehomeInverse *inverse = rehome_inverse_compile(map, slice->migration->owner);
	char	   *name = rehome_remote_relation(inverse->table);

	findings = check_stage(list_concat(findings, rehome_reverse_losses(map)), name, columns);
	for (int r = 0; r < columns->n; r++)
	{
		RehomeInverseColumn *column = NULL;
		char	   *object = psprintf("%s.%s", name, quote_identifier(columns->value[r][COLUMN_NAME]));

		for (int i = 0; i < inverse->ncolumns; i++)
			if (strcmp(inverse->columns[i].remote, columns->value[r][COLUMN_NAME]) == 0)
				column = &inverse->columns[i];
		if (rehome_bool(columns->value[r][COLUMN_GENERATED]) && (column == NULL || column->key == 0))
			continue;
		if (column != NULL && column->carried)
		{
			if (column->key > 0 && !column->key_only)
				findings = rehome_finding(findings, "reverse", "error", object,
										  "is part of the key, but its inverse reads more than the target's key",
										  "Deleted rows leave nothing but their key: restore it from that.");
			continue;
		}
		if (column != NULL && column->key > 0)
			findings = rehome_finding(findings, "reverse", "error", object,
									  "is part of the key and cannot be restored from the target: no change could be carried back",
									  "Give rehome.map_column() an inverse, or cut over with one_way => true.");
		else if (rehome_bool(columns->value[r][COLUMN_REQUIRED]))
			findings = rehome_finding(findings, "reverse", "error", object,
									  "cannot be restored from the target, may not be null and has no default: rows inserted after cutover could not be carried back",
									  "Give rehome.map_column() an inverse, give the source column a default, or cut over with one_way => true.");
		else
			findings = rehome_finding(findings, "reverse", "warning", object,
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
			findings = rehome_finding(findings, "reverse", "warning", rehome_relation_name(derivation->target),
									  psprintf("%s: derived (\"%s\"), and derived anew by a rollback: what is written to it after cutover is lost",
											   derivation->whole ? "its rows" : rehome_quote_list(derivation->columns, ""), derivation->name),
									  "Give rehome.add_derived() a function to write back, if that is not enough.");
	}
	return findings;
}

/*
 * check_untaken names the tables over which another migration has authority,
 * which a cutover would be refused for under its locks (cutover.c).  Schema
 * rehome_source may be somebody else's, which check_connection tells.
 */
static List *
check_untaken(List *findings, RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeRows *facts)
{
	List	   *found = NIL;
	RehomeRows *rows;
	ListCell   *lc;

	foreach(lc, maps)
	{
		char	  **fact = facts->value[foreach_current_index(lc)];

		if (fact[FACT_OID] != NULL && rehome_bool(fact[FACT_USAGE]))
			found = lappend(found, lfirst(lc));
	}
	if (found == NIL || rehome_conn_query(conn, "SELECT 1 FROM pg_namespace WHERE nspname = 'rehome_source' AND pg_has_role(nspowner, 'USAGE')", "")->n == 0)
		return findings;
	rows = rehome_source_taken(conn, slice, found);
	for (int i = 0; i < rows->n; i++)
		findings = rehome_finding(findings, "source", "error", rows->value[i][0],
								  psprintf("has moved to %s: another migration has authority over it", rows->value[i][1]),
								  "Roll that one back before the cutover, or cancel this one.");
	return findings;
}

/*
 * check_sequences looks whether the sequences of mapped columns can be read
 * and set, names those of the same schemas that nothing carries, and those that
 * give numbers to other tables, too.
 */
static List *
check_sequences(List *findings, RehomeConn *conn, RehomeSlice *slice, RehomeRows *facts, const char *role)
{
	List	   *oids = NIL;
	List	   *schemas = NIL;
	List	   *tables = NIL;
	RehomeRows *rows;
	RehomeRows *others;

	/* of the migration's other slices, which carry their own */
	others = rehome_spi("SELECT t.source::oid FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id JOIN pg_foreign_table f ON f.ftrelid = t.source::oid"
						" WHERE s.migration_id = $1 AND s.id <> $2 AND s.state <> 'cancelled'", "ii", slice->migration->id, slice->id);
	for (int i = 0; i < others->n; i++)
	{
		RehomeRemoteTable *table = rehome_remote_table((Oid) rehome_int64(others->value[i][0]));

		schemas = lappend(schemas, table->schema);
		tables = lappend(tables, table->table);
	}
	for (int i = 0; i < facts->n; i++)
		if (facts->value[i][FACT_OID] != NULL)
			oids = lappend(oids, facts->value[i][FACT_OID]);
	rows = rehome_conn_query(conn,
							 "WITH t AS (SELECT oid FROM unnest($1::oid[]) AS oid),"
							 " feeds AS (SELECT d.objid AS oid, d.refobjid AS relid, false AS by_default FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
							 "   AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')"
							 "  UNION ALL SELECT d.refobjid, f.adrelid, true FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid"
							 "   WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass),"
							 " fed AS (SELECT oid FROM feeds WHERE relid IN (SELECT oid FROM t)),"
							 " elsewhere AS (SELECT f.oid FROM unnest($2::text[], $3::text[]) AS r(schema, name) JOIN pg_namespace n ON n.nspname = r.schema"
							 "   JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.name JOIN feeds f ON f.relid = c.oid),"
							 " others AS (SELECT f.oid, string_agg(DISTINCT format('%I.%I', m.nspname, o.relname), ', ') AS names FROM feeds f"
							 "   JOIN pg_class o ON o.oid = f.relid JOIN pg_namespace m ON m.oid = o.relnamespace"
							 "   WHERE f.by_default AND NOT o.relispartition AND o.oid NOT IN (SELECT oid FROM t) GROUP BY f.oid)"
							 " SELECT format('%I.%I', n.nspname, s.relname), has_sequence_privilege(s.oid, 'SELECT'), has_sequence_privilege(s.oid, 'UPDATE'),"
							 " s.oid IN (SELECT oid FROM fed),"
							 " has_schema_privilege(n.oid, 'USAGE') OR n.oid IN (SELECT relnamespace FROM pg_class WHERE oid IN (SELECT oid FROM t)), quote_ident(n.nspname), x.names,"
							 " s.oid IN (SELECT oid FROM elsewhere), q.seqcache > 1 AND NOT pg_has_role(s.relowner, 'USAGE')"
							 " FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid LEFT JOIN others x ON x.oid = s.oid WHERE s.relkind = 'S' AND (s.relnamespace IN"
							 "  (SELECT relnamespace FROM pg_class WHERE oid IN (SELECT oid FROM t)) OR s.oid IN (SELECT oid FROM fed)) ORDER BY 1",
							 "ttt", rehome_name_array(oids), rehome_name_array(schemas), rehome_name_array(tables));
	for (int i = 0; i < rows->n; i++)
	{
		char	   *name = rows->value[i][0];

		if (!rehome_bool(rows->value[i][3]))
		{
			if (!rehome_bool(rows->value[i][7]))
				findings = rehome_finding(findings, "sequence", "warning", name,
										  "feeds no mapped column and is not carried over",
										  "Set its counterpart by hand in the transaction of the cutover, if there is one.");
			continue;
		}
		if (!rehome_bool(rows->value[i][4]))
			findings = rehome_finding(findings, "privilege", "error", name, psprintf("role %s may not use its schema", role),
									  psprintf("GRANT USAGE ON SCHEMA %s TO %s;", rows->value[i][5], role));
		if (!rehome_bool(rows->value[i][1]) || !rehome_bool(rows->value[i][2]))
			findings = rehome_finding(findings, "privilege", "error", name,
									  psprintf("role %s may not read and set the sequence", role),
									  psprintf("GRANT SELECT, UPDATE ON SEQUENCE %s TO %s;", name, role));
		if (rehome_bool(rows->value[i][8]))
			findings = rehome_finding(findings, "sequence", "warning", name,
									  psprintf("has a CACHE, and role %s does not own it: after a rollback sessions of the source may give out numbers that they have taken from it in advance, and that were given out at the target since", role),
									  psprintf("GRANT the owner to %s; or end those sessions, or have them DISCARD SEQUENCES, before a rollback.", role));
		if (rows->value[i][6] != NULL)
			findings = rehome_finding(findings, "sequence", "warning", name,
									  psprintf("feeds tables that this slice does not move as well (%s): after its cutover both sides give out the same numbers",
											   rows->value[i][6]),
									  "Put these tables into one slice; or set the sequence of one side far ahead, by hand, in the transaction of the cutover.");
	}
	return findings;
}

/*
 * check_own_sequences looks whether those of a target can be set.
 */
static List *
check_own_sequences(List *findings, RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	Oid			owner = slice->migration->owner;
	List	   *hints;
	ListCell   *lc;
	ListCell   *lc2;
	List	   *names = rehome_sequences_not_owned(conn, map, owner, &hints);

	forboth(lc, names, lc2, hints)
		findings = rehome_finding(findings, "privilege", "error", lfirst(lc),
								  psprintf("role \"%s\" does not own the sequence, and may not set it", GetUserNameFromId(owner, false)),
								  lfirst(lc2));
	return findings;
}

/*
 * rehome_source_keys returns the validated foreign keys of the sources of some
 * maps, and to them: the names of both tables, and those of the columns, each
 * with the one it refers to, in order, as a text, see rehome_source_key(); how
 * the columns are compared, in the same order; and whether it is MATCH FULL.
 */
RehomeRows *
rehome_source_keys(RehomeConn *conn, List *maps)
{
	List	   *schemas = NIL;
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeRemoteTable *table = rehome_remote_table(((RehomeTableMap *) lfirst(lc))->source);

		schemas = lappend(schemas, table->schema);
		tables = lappend(tables, table->table);
	}
	/* not by regclass: who may not use the schema is told so by another finding */
	return rehome_conn_query(conn, "WITH t AS (SELECT c.oid FROM unnest($1::text[], $2::text[]) AS r(schema, name)"
							 "  JOIN pg_namespace n ON n.nspname = r.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.name)"
							 " SELECT concat_ws(chr(1), cn.nspname, c.relname, pn.nspname, p.relname, (SELECT string_agg(pair, chr(1) ORDER BY pair COLLATE \"C\")"
							 "   FROM (SELECT a.attname || chr(1) || b.attname AS pair FROM unnest(k.conkey, k.confkey) AS u(att, ref)"
							 "           JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.att"
							 "           JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.ref) AS x)),"
							 " (SELECT array_agg(" REHOME_COMPARED_AS("a") " || '|' || " REHOME_COMPARED_AS("b")
							 "    ORDER BY (a.attname || chr(1) || b.attname) COLLATE \"C\") FROM unnest(k.conkey, k.confkey) AS u(att, ref)"
							 "    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.att"
							 "    JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.ref), k.confmatchtype = 'f'"
							 " FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace"
							 " JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace"
							 " WHERE k.contype = 'f' AND k.convalidated AND (k.conrelid IN (SELECT oid FROM t) OR k.confrelid IN (SELECT oid FROM t))", "tt",
							 rehome_name_array(schemas), rehome_name_array(tables));
}

static int
by_bytes(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/*
 * rehome_source_key returns the one that is between the sources of two maps, of
 * these columns; NULL if there is none.
 */
char **
rehome_source_key(RehomeRows *keys, RehomeTableMap *child, RehomeTableMap *parent,
				  List *columns, List *refs)
{
	RehomeRemoteTable *from = rehome_remote_table(child->source);
	RehomeRemoteTable *to = rehome_remote_table(parent->source);
	List	   *pairs = NIL;
	StringInfoData key;
	ListCell   *a;
	ListCell   *b;

	forboth(a, columns, b, refs)
		pairs = lappend(pairs, psprintf("%s\001%s", (char *) lfirst(a), (char *) lfirst(b)));
	list_sort(pairs, by_bytes);
	initStringInfo(&key);
	appendStringInfo(&key, "%s\001%s\001%s\001%s", from->schema, from->table, to->schema, to->table);
	foreach(a, pairs)
		appendStringInfo(&key, "\001%s", (char *) lfirst(a));
	for (int i = 0; i < keys->n; i++)
		if (strcmp(keys->value[i][0], key.data) == 0)
			return keys->value[i];
	return NULL;
}

/*
 * rehome_check_switch returns what stands in the way of cutover and rollback,
 * given the maps' source facts and columns.
 */
List *
rehome_check_switch(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeRows *facts, List *columns)
{
	List	   *findings = NIL;
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
			findings = rehome_finding(findings, "privilege", "error", name,
									  psprintf("role %s may not lock it for the switch, nor bring changes back", role),
									  psprintf("GRANT INSERT, UPDATE, DELETE ON TABLE %s TO %s;", name, role));
		foreach(lc2, rehome_sequences_left(map))
			findings = rehome_finding(findings, "sequence", "warning", lfirst(lc2),
									  "feeds a column that a rule fills with other values than the source's, and is not carried over",
									  "Set it by hand in the transaction of the cutover.");
		if (rehome_bool(fact[FACT_USAGE]))
			findings = check_own_sequences(findings, conn, slice, map);
		if (rehome_key_is_mapped(map) && rehome_bool(fact[FACT_USAGE]))
			findings = check_reverse(findings, slice, map, list_nth(columns, foreach_current_index(lc)));
	}
	findings = check_derived(findings, slice);
	findings = check_untaken(findings, conn, slice, maps, facts);
	findings = check_sequences(findings, conn, slice, facts, role);
	foreach(lc, findings)
		((RehomeFinding *) lfirst(lc))->at_switch = true;
	return findings;
}

/*
 * rehome_preflight_switch returns what stands in the way of cutover and
 * rollback.
 */
List *
rehome_preflight_switch(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeRows *facts = rehome_source_facts(conn, maps);

	return rehome_check_switch(conn, slice, maps, facts, rehome_source_columns(conn, facts));
}
