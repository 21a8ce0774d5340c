/*-------------------------------------------------------------------------
 *
 * refused.c
 *	  Writes that the side without authority has refused, on record.
 *
 * A write that is refused is rolled back, and so would be a row that told of
 * it.  So the fence at the source and the guard of a target count with a
 * sequence each, and what it has moved by since the last look is kept in
 * rehome.drift: one open row a table and side, whose count grows.  Who it was
 * is in the log of that server.
 *
 * The row's detail has what the sequence was at, and the epoch: when that
 * server's statistics began.  They begin anew after a crash, and a crash may
 * make a sequence skip values: up to 32 are not counted then, so that a count
 * never claims too many.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"

/*
 * name_of returns what the map's table is called on a side.
 */
static char *
name_of(RehomeTableMap *map, const char *side)
{
	return strcmp(side, "target") == 0 ? rehome_relation_name(map->target) :
		rehome_remote_relation(rehome_remote_table(map->source));
}

/*
 * rehome_refused_note keeps what a side has refused since the last look.
 * counted is {"epoch": ..., "counts": {table map: value of its sequence}}.
 */
void
rehome_refused_note(RehomeSlice *slice, List *maps, const char *side, const char *counted)
{
	RehomeRows *rows;
	ListCell   *lc;

	rows = rehome_spi("WITH seen AS ("
					  "  SELECT t.id AS map, c.value::bigint AS n, d.id, d.resolved_at, d.detail ->> 'epoch' AS epoch,"
					  "   CASE WHEN (d.detail ->> 'counter')::bigint <= c.value::bigint THEN (d.detail ->> 'counter')::bigint ELSE 0 END AS base"
					  "   FROM jsonb_each_text($4::jsonb -> 'counts') AS c JOIN rehome.table_map t ON t.id = c.key::int"
					  "   LEFT JOIN LATERAL (SELECT * FROM rehome.drift d WHERE d.migration = $1::name AND d.slice = $2::name"
					  "     AND d.target = t.target AND d.side = $3 AND d.kind = 'refused' AND d.detail -> 'table_map' = to_jsonb(t.id)"
					  "     ORDER BY d.id DESC LIMIT 1) AS d ON true),"
					  " more AS (SELECT *, n - base - CASE WHEN epoch = $4::jsonb ->> 'epoch' OR (id IS NULL AND n <= 32) THEN 0 ELSE 32 END AS more"
					  "   FROM seen WHERE n <> base OR epoch IS DISTINCT FROM $4::jsonb ->> 'epoch')"
					  " SELECT map, id, resolved_at IS NULL AND id IS NOT NULL, greatest(more, 0),"
					  "  jsonb_build_object('table_map', map, 'counter', n, 'epoch', $4::jsonb -> 'epoch')"
					  " FROM more WHERE id IS NOT NULL OR more > 0", "tttt",
					  slice->migration->name, slice->name, side, counted);
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		int64		more = rehome_int64(v[3]);

		if (v[1] != NULL && (rehome_bool(v[2]) || more == 0))
		{
			rehome_spi("UPDATE rehome.drift SET detail = detail || $2::jsonb || CASE WHEN $3::bigint > 0 THEN"
					   " jsonb_build_object('count', (detail ->> 'count')::bigint + $3::bigint, 'until', clock_timestamp()) ELSE '{}' END"
					   " WHERE id = $1::bigint", "ttl", v[1], v[4], more);
			continue;
		}
		foreach(lc, maps)
		{
			RehomeTableMap *map = lfirst(lc);

			if (map->id != rehome_int(v[0]))
				continue;
			rehome_spi("INSERT INTO rehome.drift (migration, slice, side, kind, object, target, detail)"
					   " VALUES ($1::name, $2::name, $3, 'refused', $4, $5, $6::jsonb || jsonb_build_object("
					   "  'what', 'writes were refused', 'count', $7::bigint, 'until', clock_timestamp()))", "ttttotl",
					   slice->migration->name, slice->name, side, name_of(map, side), map->target, v[4], more);
			rehome_event(slice->migration->name, slice->name, "drift",
						 psprintf("writes to %s are refused at the %s: " INT64_FORMAT " so far; the log there tells whose",
								  name_of(map, side), side, more), NULL);
		}
	}
}

/*
 * rehome_refused_at_target keeps what the guards of targets have refused.
 */
void
rehome_refused_at_target(RehomeSlice *slice, List *maps)
{
	char	   *counted = rehome_spi_value("SELECT jsonb_build_object('epoch', pg_stat_get_bgwriter_stat_reset_time(), 'counts',"
										   " coalesce(jsonb_object_agg(t.id, v.n) FILTER (WHERE v.n IS NOT NULL), '{}'))"
										   " FROM rehome.table_map t, LATERAL (SELECT pg_sequence_last_value("
										   "  to_regclass('rehome_change.refused_' || t.id)) AS n) AS v WHERE t.slice_id = $1", "i", slice->id);

	rehome_refused_note(slice, maps, "target", counted);
}

/*
 * rehome_refused_end closes what is on record of a side, which gets authority.
 */
void
rehome_refused_end(RehomeSlice *slice, const char *side, const char *resolution)
{
	rehome_spi("UPDATE rehome.drift SET resolved_at = clock_timestamp(), resolution = $4 WHERE migration = $1::name"
			   " AND slice = $2::name AND side = $3 AND kind = 'refused' AND resolved_at IS NULL", "tttt",
			   slice->migration->name, slice->name, side, resolution);
}
