/*-------------------------------------------------------------------------
 *
 * lineage.c
 *	  rehome.lineage(): which rows of the source a row of a target comes from,
 *	  by which rules, and as of which position.
 *
 * The source is asked, as the migration's owner, for the rows whose key, by
 * the rules, is that of the target's row: so computed keys need no inverse.
 * A key that is copied is looked up by the source itself; a computed one has
 * it read the whole table.
 *
 * A derived row comes from the moved rows whose change would touch it, and
 * these from the source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "derive/derive.h"
#include "document/document.h"
#include "mapping/mapping.h"
#include "miscadmin.h"
#include "util/name.h"
#include "util/problems.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/*
 * check_key raises with everything that keeps an object from being a key of
 * the map's target.
 */
static void
check_key(RehomeTableMap *map, const char *key)
{
	RehomeProblems problems;
	RehomeRows *rows;

	rehome_problems_init(&problems);
	rows = rehome_spi("SELECT format('\"%s\" is not part of the key.', e.key)"
					  " FROM jsonb_each(CASE WHEN jsonb_typeof($1::jsonb) = 'object' THEN $1::jsonb ELSE '{}' END) e"
					  " WHERE e.key <> ALL ($2::text[])"
					  " UNION ALL SELECT format('\"%s\" is missing, or null.', k) FROM unnest($2::text[]) k"
					  " WHERE coalesce($1::jsonb -> k, 'null') = 'null'", "tt", key, rehome_name_array(map->key));
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE,
					   psprintf("Give an object with %s.", rehome_spi_value("SELECT array_to_string($1::text[], ', ')", "t",
																		  rehome_name_array(map->key))),
					   "%s", rows->value[i][0]);
	rehome_problems_raise(&problems, "this is not a key of %s", rehome_relation_name(map->target));
}

/*
 * source_query returns the query for the keys of the source's rows.
 */
static char *
source_query(RehomeTableMap *map, const char *key)
{
	StringInfoData sql;
	ListCell   *lc;
	ListCell   *lc2;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT jsonb_build_object(");
	foreach(lc, map->source_key)
		appendStringInfo(&sql, "%s%s, source.%s", foreach_current_index(lc) > 0 ? ", " : "",
						 quote_literal_cstr(lfirst(lc)), quote_identifier(lfirst(lc)));
	appendStringInfo(&sql, ") FROM %s AS source WHERE (%s)", rehome_relation_name(map->source),
					 map->filter ? map->filter : "true");
	foreach(lc, map->key)
		foreach(lc2, map->columns)
		{
			RehomeColumnMap *rule = lfirst(lc2);
			AttrNumber	attnum;
			Oid			type;
			int32		typmod;
			Oid			collation;
			char	   *name;

			if (strcmp(rule->name, lfirst(lc)) != 0 || rule->expression == NULL)
				continue;
			attnum = get_attnum(map->target, rule->name);
			get_atttypetypmodcoll(map->target, attnum, &type, &typmod, &collation);
			name = format_type_with_typemod(type, typmod);
			appendStringInfo(&sql, " AND (%s)::%s %s %s::%s", rule->expression, name,
							 rehome_equality_operator(map->target, attnum),
							 quote_literal_cstr(rehome_spi_value("SELECT $1::jsonb ->> $2", "tt", key, rule->name)), name);
		}
	appendStringInfoString(&sql, " ORDER BY 1");
	return sql.data;
}

/*
 * put_rules puts a row for each rule of the map.
 */
static void
put_rules(RehomeSink *sink, RehomeSlice *slice, RehomeTableMap *map, char *source_key)
{
	RehomeRows *rules = rehome_spi("SELECT c.\"column\", c.expression, c.owner::text FROM rehome.column_map c"
								   " JOIN pg_attribute a ON a.attrelid = $2 AND a.attname = c.\"column\""
								   " WHERE c.table_map_id = $1 AND c.expression IS NOT NULL ORDER BY a.attnum",
								   "io", map->id, map->target);

	for (int i = 0; i < rules->n; i++)
	{
		List	   *fields;
		char	   *values[10];

		values[0] = slice->migration->name;
		values[1] = slice->name;
		values[2] = rehome_source_name(map->source);
		values[3] = source_key;
		values[4] = rules->value[i][0];
		values[5] = rehome_rule_fields(slice->migration, map->source, rules->value[i][1], &fields) ?
			rehome_name_array(fields) : NULL;
		values[6] = rules->value[i][1];
		values[7] = rules->value[i][2];
		values[8] = slice->position;
		values[9] = rehome_spi_value("SELECT position_at FROM rehome.slice WHERE id = $1", "i", slice->id);
		rehome_sink_put(sink, values);
	}
}

/*
 * put_moved puts the rows of a moved table's row: a row each rule, and each row
 * of the source.
 */
static void
put_moved(RehomeSink *sink, RehomeTableMap *map, const char *key)
{
	RehomeSlice *slice = rehome_slice_by_id(map->slice_id);
	RehomeRows *rows;

	check_key(map, key);
	if (!rehome_table_map_exists(map))
	{
		put_rules(sink, slice, map, NULL);
		return;
	}
	rows = rehome_spi_as(slice->migration->owner, true, source_query(map, key));
	for (int r = 0; r < rows->n; r++)
		put_rules(sink, slice, map, rows->value[r][0]);
	if (rows->n == 0)
		put_rules(sink, slice, map, NULL);
}

/*
 * input_query returns the query for the keys, by the map, of the rows of an
 * input that touch a derived key: those for which what they affect has it.
 */
static char *
input_query(RehomeDerivation *derivation, RehomeTableMap *map, const char *affected, const char *key)
{
	StringInfoData sql;
	StringInfoData names;
	StringInfoData same;
	RehomeMapping *mapping = rehome_derivation_mapping(derivation);
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&names);
	initStringInfo(&same);
	for (int k = 0; k < mapping->nkey; k++)
	{
		RehomeMappedColumn *column = mapping->key[k];

		appendStringInfo(&names, "%skey%d", k > 0 ? ", " : "", k + 1);
		appendStringInfo(&same, "%sa.key%d %s %s::%s", k > 0 ? " AND " : "", k + 1, column->equal,
						 quote_literal_cstr(rehome_spi_value("SELECT $1::jsonb ->> $2", "tt", key, column->name)),
						 format_type_with_typemod(column->type, column->typmod));
	}
	appendStringInfoString(&sql, "SELECT pg_catalog.jsonb_build_object(");
	foreach(lc, map->key)
		appendStringInfo(&sql, "%s%s, t.%s", foreach_current_index(lc) > 0 ? ", " : "",
						 quote_literal_cstr(lfirst(lc)), quote_identifier(lfirst(lc)));
	appendStringInfo(&sql, ") FROM %s AS t WHERE EXISTS (SELECT FROM (%s\n) AS a(%s) WHERE %s) ORDER BY 1",
					 rehome_relation_name(map->target), affected, names.data, same.data);
	return sql.data;
}

/*
 * put_derived puts the rows of a derived row: one each derived column, and then
 * those of the moved rows it was derived from, as far as inputs tell which
 * keys they affect.
 */
static void
put_derived(RehomeSink *sink, RehomeSlice *slice, RehomeDerivation *derivation, const char *key)
{
	RehomeTableMap target = {.target = derivation->target,.key = derivation->key};
	RehomeRows *rows;
	ListCell   *lc;

	check_key(&target, key);
	rows = rehome_spi("SELECT string_agg(i.input::text, ', ' ORDER BY i.input::text), d.query, m.owner::text, s.position, s.position_at"
					  " FROM rehome.derivation d JOIN rehome.derivation_input i ON i.derivation_id = d.id"
					  " JOIN rehome.slice s ON s.id = d.slice_id JOIN rehome.migration m ON m.id = d.migration_id"
					  " WHERE d.id = $1 GROUP BY d.id, m.id, s.id", "i", derivation->id);
	foreach(lc, derivation->columns)
	{
		char	   *values[10] = {slice->migration->name, slice->name, rows->value[0][0], NULL, lfirst(lc), NULL,
		rows->value[0][1], rows->value[0][2], rows->value[0][3], rows->value[0][4]};

		rehome_sink_put(sink, values);
	}
	rows = rehome_spi("SELECT t.id, i.affected FROM rehome.derivation_input i JOIN rehome.table_map t ON t.target = i.input AND t.slice_id = $2"
					  " WHERE i.derivation_id = $1 AND i.affected IS NOT NULL AND i.input <> $3::oid ORDER BY i.input::text", "iio",
					  derivation->id, slice->id, derivation->target);
	for (int i = 0; i < rows->n; i++)
	{
		RehomeTableMap *map = rehome_table_map_by_id(rehome_int(rows->value[i][0]));
		RehomeRows *keys = rehome_stated_run(&derivation->stated, input_query(derivation, map, rows->value[i][1], key), NULL);

		for (int k = 0; k < keys->n; k++)
		{
			CHECK_FOR_INTERRUPTS();
			put_moved(sink, map, keys->value[k][0]);
		}
	}
}

PG_FUNCTION_INFO_V1(rehome_lineage);

/*
 * rehome_lineage(target regclass, key jsonb)
 */
Datum
rehome_lineage(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	RehomeRows *maps;
	RehomeRows *slices;
	Oid			target;
	char	   *key;
	ListCell   *lc;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("target and key must be given"));
	target = PG_GETARG_OID(0);
	key = OidOutputFunctionCall(F_JSONB_OUT, PG_GETARG_DATUM(1));
	if (get_rel_name(target) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", target));
	if (pg_class_aclcheck(target, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(target));
	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	maps = rehome_spi("SELECT t.id FROM rehome.table_map t WHERE t.target = $1 ORDER BY t.id", "o", target);
	slices = rehome_spi("SELECT DISTINCT slice_id FROM rehome.derivation WHERE target = $1 ORDER BY 1", "o", target);
	if (maps->n == 0 && slices->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("table \"%s\" is not a target of any migration", get_rel_name(target)));
	for (int i = 0; i < maps->n; i++)
		put_moved(&sink, rehome_table_map_by_id(rehome_int(maps->value[i][0])), key);
	for (int i = 0; i < slices->n; i++)
	{
		RehomeSlice *slice = rehome_slice_by_id(rehome_int(slices->value[i][0]));

		foreach(lc, rehome_derivations_get(slice))
			if (((RehomeDerivation *) lfirst(lc))->target == target)
				put_derived(&sink, slice, lfirst(lc), key);
	}
	rehome_call_end(&call);
	return (Datum) 0;
}
