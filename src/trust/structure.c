/*-------------------------------------------------------------------------
 *
 * structure.c
 *	  Where the catalogs of both sides differ about the mapped tables.
 *
 * The same query reads the facts on both sides, in one round trip each
 * (sql/structure_facts.sql); they are compared here, with columns as the target
 * names them (sql/structure_compare.sql).  A difference is intended if there is
 * a rule that orders it, or it follows from where the slice stands.
 *
 * Where the target lacks a foreign key that the source has, or has not
 * validated it, the rows without a parent are named.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cutover/cutover.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "remote/query.h"
#include "trust/sql/structure_compare.sql.h"
#include "trust/sql/structure_facts.sql.h"
#include "trust/trust.h"
#include "util/sink.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

/* Rows without a parent that are named for one foreign key. */
#define MAX_ORPHANS 20

/* Columns of structure_facts.sql, as structure_compare.sql calls them. */
static const char *const fact_columns[] = {"kind", "n", "columns", "ref", "ref_columns", "value"};

/* Columns of structure_compare.sql. */
enum
{
	DIFF_OBJECT, DIFF_KIND, DIFF_SOURCE, DIFF_TARGET, DIFF_INTENDED, DIFF_EXPLANATION, DIFF_N, DIFF_COLUMNS,
	DIFF_REF, DIFF_REF_COLUMNS
};

/*
 * member appends a member of a JSON object, NULL as null.
 */
static void
member(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, "%s\"%s\": ", json->data[json->len - 1] == '{' ? "" : ", ", name);
	if (value == NULL)
		appendStringInfoString(json, "null");
	else
		escape_json(json, value);
}

static void
next_object(StringInfo json)
{
	appendStringInfoString(json, json->len > 1 ? "}, {" : "{");
}

static char *
end_array(StringInfo json)
{
	appendStringInfoString(json, json->len > 1 ? "}]" : "]");
	return json->data;
}

/*
 * facts_array makes a JSON array of facts.
 */
static char *
facts_array(RehomeRows *rows)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (int i = 0; i < rows->n; i++)
	{
		next_object(&json);
		for (int c = 0; c < lengthof(fact_columns); c++)
			member(&json, fact_columns[c], rows->value[i][c]);
	}
	return end_array(&json);
}

/*
 * column_of returns what the source calls the column that a target column is
 * a copy of, or NULL.
 */
static const char *
column_of(RehomeSlice *slice, RehomeTableMap *map, RehomeColumnMap *column)
{
	const char *name = rehome_copied_column(column);

	return name != NULL && slice->migration->live ? rehome_remote_column(rehome_remote_table(map->source), name) : name;
}

/*
 * columns_array makes a JSON array of all mapped columns.
 */
static char *
columns_array(RehomeSlice *slice, List *maps)
{
	StringInfoData json;
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		RehomeRows *sources = rehome_value_sources(map);
		ListCell   *lc2;

		foreach(lc2, map->columns)
		{
			RehomeColumnMap *column = lfirst(lc2);

			next_object(&json);
			member(&json, "n", psprintf("%d", foreach_current_index(lc)));
			member(&json, "source", column_of(slice, map, column));
			member(&json, "target", column->name);
			member(&json, "rule", column->kind == REHOME_COPY ? "copy" : column->kind == REHOME_SKIP ? "skip" : "expression");
			member(&json, "expression", column->expression);
			member(&json, "values_of", rehome_value_source(sources, column->name));
			member(&json, "restores", column->inverse_column == NULL ? NULL : slice->migration->live ?
				   rehome_remote_column(rehome_remote_table(map->source), column->inverse_column) : column->inverse_column);
		}
	}
	return end_array(&json);
}

/*
 * tables_array makes a JSON array of the tables.
 */
static char *
tables_array(RehomeSlice *slice, List *maps)
{
	StringInfoData json;
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		next_object(&json);
		member(&json, "n", psprintf("%d", foreach_current_index(lc)));
		member(&json, "name", rehome_relation_name(map->target));
		member(&json, "objects_off", rehome_spi("SELECT 1 FROM rehome.saved_object WHERE table_map_id = $1 AND rebuilt_at IS NULL LIMIT 1",
												"i", map->id)->n > 0 ? "true" : "false");
		member(&json, "owner", GetUserNameFromId(slice->migration->owner, false));
	}
	return end_array(&json);
}

/*
 * put_orphans names the rows of a target that lack the parent of a foreign
 * key; returns how many.
 */
static int
put_orphans(RehomeSink *sink, RehomeSlice *slice, List *maps, char **difference)
{
	RehomeTableMap *child = list_nth(maps, rehome_int(difference[DIFF_N]));
	RehomeTableMap *parent = list_nth(maps, rehome_int(difference[DIFF_REF]));
	StringInfoData key;
	List	   *columns = rehome_name_list(difference[DIFF_COLUMNS]);
	List	   *refs = rehome_name_list(difference[DIFF_REF_COLUMNS]);
	RehomeRows *rows;
	ListCell   *a;
	ListCell   *b;

	initStringInfo(&key);
	foreach(a, child->key)
		appendStringInfo(&key, "%s%s, c.%s", key.len ? ", " : "", quote_literal_cstr(lfirst(a)), quote_identifier(lfirst(a)));
	forboth(a, columns, b, refs)
		if (get_attnum(child->target, lfirst(a)) == InvalidAttrNumber ||
			get_attnum(parent->target, lfirst(b)) == InvalidAttrNumber)
			return 0;
	rows = rehome_spi_as(slice->migration->owner, true,
						 psprintf("SELECT pg_catalog.jsonb_build_object(%s) FROM %s AS c WHERE %s ORDER BY 1 LIMIT %d", key.data,
								  rehome_relation_name(child->target),
								  rehome_without_parent(columns, rehome_relation_name(parent->target), refs, NIL), MAX_ORPHANS));
	for (int i = 0; i < rows->n; i++)
		rehome_sink_put(sink, (char *[]) {difference[DIFF_OBJECT], "orphan", NULL, rows->value[i][0], "f", NULL});
	return rows->n;
}

/*
 * compare_slice puts a row each difference of a slice's tables.
 */
static void
compare_slice(RehomeSink *sink, RehomeSlice *slice)
{
	List	   *maps = rehome_slice_ended(slice) ? rehome_table_maps_get(slice) : rehome_table_maps_require(slice);
	List	   *schemas[2] = {NIL, NIL};
	List	   *tables[2] = {NIL, NIL};
	RehomeRows *facts[2];
	RehomeRows *rows;
	int			differences;
	int			unintended = 0;
	char	   *role = NULL;
	ListCell   *lc;

	foreach(lc, maps)
		if (!rehome_table_map_exists(lfirst(lc)))
			maps = foreach_delete_current(maps, lc);	/* gone since it has ended */
	if (maps == NIL)
		return;
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		RehomeRemoteTable *remote = slice->migration->live ? rehome_remote_table(map->source) : NULL;

		schemas[0] = lappend(schemas[0], remote ? remote->schema : get_namespace_name(get_rel_namespace(map->source)));
		tables[0] = lappend(tables[0], remote ? remote->table : get_rel_name(map->source));
		schemas[1] = lappend(schemas[1], get_namespace_name(get_rel_namespace(map->target)));
		tables[1] = lappend(tables[1], get_rel_name(map->target));
	}
	if (slice->migration->live)
	{
		RehomeConn *conn = rehome_migration_connect(slice->migration,
													psprintf("structure %s/%s", slice->migration->name, slice->name));

		facts[0] = rehome_conn_query(conn, sql_structure_facts, "tt", rehome_name_array(schemas[0]), rehome_name_array(tables[0]));
		role = rehome_conn_value(conn, "SELECT session_user", "");
		rehome_conn_close(conn);
	}
	else
		facts[0] = rehome_spi(sql_structure_facts, "tt", rehome_name_array(schemas[0]), rehome_name_array(tables[0]));
	facts[1] = rehome_spi(sql_structure_facts, "tt", rehome_name_array(schemas[1]), rehome_name_array(tables[1]));
	rows = rehome_spi(sql_structure_compare, "tttttt", facts_array(facts[0]), facts_array(facts[1]),
					  columns_array(slice, maps), tables_array(slice, maps), rehome_state_name(slice->state), role);
	differences = rows->n;
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];

		CHECK_FOR_INTERRUPTS();
		if (!rehome_bool(v[DIFF_INTENDED]))
			unintended++;
		rehome_sink_put(sink, v);
		if (strcmp(v[DIFF_KIND], "foreign key") == 0 && v[DIFF_REF] != NULL && v[DIFF_SOURCE] != NULL &&
			(v[DIFF_TARGET] == NULL || strstr(v[DIFF_TARGET], "not valid") != NULL))
		{
			int			orphans = put_orphans(sink, slice, maps, v);

			differences += orphans;
			unintended += orphans;
		}
	}
	rehome_event(slice->migration->name, slice->name, "structure",
				 psprintf("%d differences in structure, %d of them unintended", differences, unintended),
				 psprintf("{\"differences\": %d, \"unintended\": %d}", differences, unintended));
}

/*
 * slices_told leaves out of all slices those the scorecard does not count
 * either: cancelled ones, and completed ones while others are on their way.
 */
static List *
slices_told(List *slices)
{
	bool		on_their_way = false;
	ListCell   *lc;

	foreach(lc, slices)
		on_their_way = on_their_way || (!rehome_slice_ended(lfirst(lc)) && rehome_table_maps_get(lfirst(lc)) != NIL);
	foreach(lc, slices)
	{
		RehomeSlice *slice = lfirst(lc);

		if (slice->state == REHOME_CANCELLED || (slice->state == REHOME_COMPLETED && on_their_way))
			slices = foreach_delete_current(slices, lc);
	}
	return slices;
}

PG_FUNCTION_INFO_V1(rehome_structure);

/*
 * rehome_structure(migration name, slice name)
 */
Datum
rehome_structure(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	List	   *slices;
	ListCell   *lc;

	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	slices = rehome_slices_get(rehome_migration_argument(fcinfo), REHOME_ARG_NAME(1));
	foreach(lc, PG_ARGISNULL(1) ? slices_told(slices) : slices)
		compare_slice(&sink, lfirst(lc));
	rehome_call_end(&call);
	return (Datum) 0;
}
