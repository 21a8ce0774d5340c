/*-------------------------------------------------------------------------
 *
 * chunk.c
 *	  Cutting source tables into chunks, and what a restart may keep.
 *
 * A chunk is a range of physical blocks of one table or partition, read with
 * a TID range scan.  Its rows and its done mark commit together.  Sources
 * before 14, which would scan the whole table for each range, get one chunk
 * a table.
 *
 * What goes first is what most work waits for: a chunk weighs as much as its
 * table, once for the load and once more for each index that is built after
 * it (dearer ones more); an index weighs its own share.  So the longest chain
 * is never left for the end, where the other workers would have nothing to do.
 *
 * A copy that is resumed reads under another snapshot, S0', while position
 * stays S0.  Updated rows may have moved meanwhile from a chunk that is done
 * to one that is not, or the other way round.  But every such row has its
 * key in the change table, not visible in S0, and will come with the first
 * batch of sync.  So a resumed chunk leaves out the keys changed since S0;
 * what it reads has not changed, and so has not moved.  The exception is a
 * table rewritten as a whole (VACUUM FULL, CLUSTER, TRUNCATE): its file is
 * another, and its copy begins anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "copy/copy.h"
#include "guc.h"
#include "remote/query.h"
#include "util/spi.h"
#include "utils/builtins.h"

/* The first source version whose ctid ranges do not scan the whole table. */
#define TID_RANGE_VERSION 140000

/*
 * source_parts lists, for each map, the tables that hold its rows: RehomeRows
 * of schema, name, filenode, blocks, bytes with TOAST.
 */
static List *
source_parts(RehomeConn *conn, List *maps)
{
	RehomeRows *rows = rehome_conn_query(conn,
										 "SELECT n.nspname, c.relname, pg_relation_filenode(c.oid),"
										 " pg_relation_size(c.oid) / current_setting('block_size')::int, pg_table_size(c.oid), u.n"
										 " FROM unnest($1::text[]) WITH ORDINALITY AS u(name, n),"
										 " rehome_source.partition_tree(u.name::regclass) AS p"
										 " JOIN pg_class c ON c.oid = p JOIN pg_namespace n ON n.oid = c.relnamespace"
										 " WHERE c.relkind = 'r' ORDER BY u.n, c.oid",
										 "t", rehome_remote_names(maps));

	return rehome_rows_split(rows, list_length(maps));
}

/*
 * bytes_of returns the size of source_parts.
 */
static int64
bytes_of(RehomeRows *parts)
{
	int64		bytes = 0;

	for (int i = 0; i < parts->n; i++)
		bytes += rehome_int64(parts->value[i][4]);
	return bytes;
}

/*
 * plan_map cuts one table, given its source_parts.  A chunk holds
 * rehome.chunk_size, TOAST included.
 */
static void
plan_map(RehomeConn *conn, RehomeTableMap *map, RehomeRows *parts, double weight)
{
	static SPIPlanPtr plan = NULL;

	for (int i = 0; i < parts->n; i++)
	{
		char	  **p = parts->value[i];
		int64		blocks = rehome_int64(p[3]);
		int64		chunks = rehome_int64(p[4]) / (rehome_chunk_size * INT64CONST(1024));
		int64		step = Max(blocks / Max(chunks, 1), 1);

		if (rehome_conn_version(conn) < TID_RANGE_VERSION || blocks <= step)
			step = Max(blocks, 1);
		rehome_spi_kept(&plan, "INSERT INTO rehome.chunk (slice_id, table_map_id, part_schema, part_table, part_filenode, lo, hi, weight)"
						" SELECT $1, $2, $3::name, $4::name, $5::oid, CASE WHEN $6 > $7 THEN lo END,"
						" CASE WHEN lo + $7 < $6 THEN lo + $7 END, $8::float8"
						" FROM generate_series(0, greatest($6 - 1, 0), $7) AS lo", "iitttllt",
						map->slice_id, map->id, p[0], p[1], p[2], blocks, step, psprintf("%.17g", weight));
	}
}

/*
 * weigh turns the cost factors of a table's saved objects into weights, and
 * returns that of its chunks.
 */
static double
weigh(RehomeTableMap *map, int64 bytes)
{
	static SPIPlanPtr plan = NULL;

	return rehome_float8(rehome_spi_kept(&plan, "WITH w AS (UPDATE rehome.saved_object SET weight = weight * $2"
										 " WHERE table_map_id = $1 RETURNING weight, kind)"
										 " SELECT coalesce(sum(weight) FILTER (WHERE kind <> 'foreign key'), 0) + $2 FROM w",
										 "il", map->id, bytes)->value[0][0]);
}

/*
 * rehome_chunk_plan cuts all tables of a slice, and takes indexes off the
 * targets, which are locked, where that pays.  The source transaction in
 * which the tables will be read is open, and holds their locks.
 */
void
rehome_chunk_plan(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	/* first: what a dropped foreign key refers to is locked from then on */
	List	   *parts = source_parts(conn, maps);
	List	   *small = NIL;
	ListCell   *lc;
	ListCell   *its;

	forboth(lc, maps, its, parts)
		/* where a unique index may refuse rows, it has to be there */
		if (((RehomeTableMap *) lfirst(lc))->quarantine ||
			bytes_of(lfirst(its)) < rehome_keep_indexes_below * INT64CONST(1024))
			small = lappend(small, lfirst(lc));
	rehome_saved_take(maps, small);
	forboth(lc, maps, its, parts)
		plan_map(conn, lfirst(lc), lfirst(its), weigh(lfirst(lc), bytes_of(lfirst(its))));
}

/*
 * rehome_chunk_replan drops, on resuming, the chunks of tables that have been
 * rewritten or repartitioned since, empties those targets, and cuts the
 * tables again.
 */
void
rehome_chunk_replan(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	ListCell   *lc;
	ListCell   *its;

	forboth(lc, maps, its, source_parts(conn, maps))
	{
		RehomeTableMap *map = lfirst(lc);
		RehomeRows *parts = lfirst(its);
		RehomeRows *known = rehome_spi("SELECT DISTINCT part_schema, part_table, part_filenode"
									   " FROM rehome.chunk WHERE table_map_id = $1", "i", map->id);
		bool		same = parts->n == known->n;
		RehomeApplying applying;

		for (int i = 0; same && i < parts->n; i++)
		{
			bool		found = false;

			for (int j = 0; j < known->n; j++)
				found = found || (strcmp(parts->value[i][0], known->value[j][0]) == 0 &&
								  strcmp(parts->value[i][1], known->value[j][1]) == 0 &&
								  strcmp(parts->value[i][2], known->value[j][2]) == 0);
			same = found;
		}
		if (same)
			continue;
		rehome_spi("DELETE FROM rehome.chunk WHERE table_map_id = $1", "i", map->id);
		rehome_applying_begin(&applying, slice->migration->owner, map);
		(void) rehome_apply_delete_all(rehome_mapping_compile(map, slice->migration->owner));
		rehome_applying_end(&applying);
		plan_map(conn, map, parts, 0);
		rehome_spi("UPDATE rehome.table_map SET copied_at = NULL WHERE id = $1", "i", map->id);
		rehome_event(slice->migration->name, slice->name, "copy",
					 psprintf("table %s was rewritten at the source since its copy began and is copied anew",
							  rehome_spi_value("SELECT $1::regclass::text", "o", map->target)), NULL);
	}
}
