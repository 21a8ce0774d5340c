/*-------------------------------------------------------------------------
 *
 * forward.c
 *	  One batch from source to target, exactly once.
 *
 * A batch takes the target from the source's state at snapshot S0 (the
 * slice's position) to its state at S1:
 *
 *	source, one REPEATABLE READ transaction:
 *		S1 := its snapshot
 *		K  := distinct keys in the change tables, visible in S1, not in S0
 *		the rows of K as of S1, and which of K have none
 *	target, one transaction:
 *		delete, update, insert (apply.c); position := S1
 *
 * If anything dies before the target's commit, the position is still S0 and
 * the next batch covers the same changes and more; reading rows and not
 * changes makes that harmless.  If it dies after, the batch is done.  Change
 * rows are pruned only up to a position the target has flushed to disk.
 *
 * TRUNCATE is not MVCC-safe: a table truncated after S1 was taken, but before
 * it was read, reads as empty although S1 still has its rows.  Reading holds
 * ACCESS SHARE, so it suffices to compare afterwards the files the tables
 * have now with those they had in S1, and to read again if they differ.
 *
 * The work lock of the slice is held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "capture/capture.h"
#include "copy/stream.h"
#include "errors.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/spi.h"
#include "utils/builtins.h"

/*
 * poll_query returns the SQL that tells, in one round trip, the snapshot, who
 * has authority, how far the log was pruned, and which tables changed since
 * the position: a character each, '-' unchanged, 'c' changed, 't' truncated.
 */
static char *
poll_query(RehomeSlice *slice, List *maps)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT txid_current_snapshot(), s.authority, s.pruned, array_to_string(ARRAY[");
	foreach(lc, maps)
	{
		char	   *change = rehome_change_table(slice->migration, lfirst(lc));

		appendStringInfo(&sql, "%sCASE WHEN NOT EXISTS (SELECT FROM %s WHERE xid >= $3 OR xid = ANY ($4)) THEN '-'"
						 " WHEN EXISTS (SELECT FROM %s WHERE (xid >= $3 OR xid = ANY ($4)) AND op = 't') THEN 't'"
						 " ELSE 'c' END", foreach_current_index(lc) > 0 ? ",\n" : "", change, change);
	}
	appendStringInfoString(&sql, "]::text[], '') FROM rehome_source.slice s WHERE s.token = $1 AND s.slice = $2");
	return sql.data;
}

/*
 * check_source raises when the source is not as this slice knows it: fenced,
 * or pruned beyond our position by somebody else.
 */
static void
check_source(RehomeSlice *slice, RehomeRows *poll)
{
	if (poll->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the source does not know slice \"%s\" of migration \"%s\" (any more)",
					   slice->name, slice->migration->name),
				errhint("Its change capture was removed: CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)));
	if (strcmp(poll->value[0][1], "source") != 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_IN_DOUBT),
				errmsg("the source has given up authority over slice \"%s\", but this database has not taken it",
					   slice->name),
				errdetail("A cutover was interrupted between its two commits; neither side accepts writes."),
				errhint("CALL rehome.recover(%s);", quote_literal_cstr(slice->migration->name)));
	if (poll->value[0][2] != NULL &&
		rehome_position_xmax(poll->value[0][2]) > rehome_position_xmax(slice->position))
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the change log of slice \"%s\" no longer reaches back to its position", slice->name),
				errdetail("Position is %s, but the log was pruned up to %s, by this database before it was restored or by a copy of it.",
						  slice->position, poll->value[0][2]),
				errhint("CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)));
}

/*
 * source_select starts "SELECT source columns FROM the source table".
 */
static char *
source_select(StringInfo sql, RehomeMapping *mapping, List *columns)
{
	appendStringInfo(sql, "SELECT %s FROM ", rehome_quote_list(columns, "source."));
	rehome_remote_from(sql, rehome_remote_table(mapping->map->source), NULL, false);
	return sql->data;
}

/*
 * read_gone stores the keys (as the target knows them) of changed rows that
 * the source no longer has, or that the filter no longer lets through.
 */
static void
read_gone(RehomeConn *conn, RehomeSlice *slice, RehomeChange *change)
{
	RehomeTableMap *map = change->mapping->map;
	RehomeProjector *projector = rehome_projector_key(change->mapping);
	StringInfoData sql;
	int			n = list_length(map->source_key);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int k = 1; k <= n; k++)
		appendStringInfo(&sql, "%sk.key%d", k > 1 ? ", " : "", k);
	appendStringInfoString(&sql, " FROM ");
	rehome_changed_keys(&sql, slice->migration, map, slice->position);
	appendStringInfoString(&sql, " AS k WHERE NOT EXISTS (SELECT FROM ");
	rehome_remote_from(&sql, rehome_remote_table(map->source), NULL, false);
	appendStringInfoString(&sql, " WHERE ");
	rehome_join_key(&sql, map, "source", "k");
	if (map->filter != NULL)
		appendStringInfo(&sql, " AND (%s)", map->filter);
	appendStringInfoChar(&sql, ')');
	change->ngone = rehome_stream(conn, sql.data, change->mapping, map->source_key,
								  projector, rehome_receive_store, change->gone, NULL);
	rehome_projector_end(projector);
}

/*
 * read_rows stores the changed rows as the source has them; after a TRUNCATE
 * all rows.
 */
static void
read_rows(RehomeConn *conn, RehomeSlice *slice, RehomeChange *change)
{
	RehomeTableMap *map = change->mapping->map;
	List	   *columns = rehome_mapping_source_columns(change->mapping);
	RehomeProjector *projector = rehome_projector_mapped(change->mapping);
	StringInfoData sql;

	initStringInfo(&sql);
	source_select(&sql, change->mapping, columns);
	if (!change->everything)
	{
		appendStringInfoString(&sql, " JOIN ");
		rehome_changed_keys(&sql, slice->migration, map, slice->position);
		appendStringInfoString(&sql, " AS k ON ");
		rehome_join_key(&sql, map, "source", "k");
	}
	if (map->filter != NULL)
		appendStringInfo(&sql, " WHERE (%s)", map->filter);
	change->nrows = rehome_stream(conn, sql.data, change->mapping, columns,
								  projector, rehome_receive_store, change->rows, NULL);
	rehome_projector_end(projector);
}

/*
 * truncated_meanwhile compares the files of the changed tables with those
 * they had in the snapshot.
 */
static bool
truncated_meanwhile(RehomeConn *conn, List *changes)
{
	StringInfoData names;
	ListCell   *lc;

	if (changes == NIL)
		return false;
	initStringInfo(&names);
	foreach(lc, changes)
	{
		RehomeChange *change = lfirst(lc);

		appendStringInfo(&names, "%s%s::regclass", names.len ? ", " : "",
						 quote_literal_cstr(rehome_remote_relation(rehome_remote_table(change->mapping->map->source))));
	}
	return rehome_bool(rehome_conn_value(conn,
										 psprintf("SELECT EXISTS (SELECT FROM unnest(ARRAY[%s]) AS r,"
												  " rehome_source.partition_tree(r) AS p JOIN pg_class c ON c.oid = p"
												  " WHERE c.relkind = 'r' AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode)",
												  names.data), ""));
}

/*
 * rehome_forward_read reads a batch in the REPEATABLE READ transaction that
 * is open on the connection.  Everything it returns is in the current memory
 * context.
 */
RehomeBatch *
rehome_forward_read(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeBatch *batch = palloc0(sizeof(RehomeBatch));
	char	   *xip = strrchr(slice->position, ':') + 1;
	RehomeRows *poll;
	RehomeAs	as;
	ListCell   *lc;

	poll = rehome_conn_query_prepared(conn, poll_query(slice, maps), "tilt",
									  slice->migration->token, slice->id,
									  rehome_position_xmax(slice->position),
									  psprintf("{%s}", xip));
	check_source(slice, poll);
	batch->position = poll->value[0][0];
	foreach(lc, maps)
	{
		char		flag = poll->value[0][3][foreach_current_index(lc)];
		RehomeChange *change;

		if (flag == '-')
			continue;
		change = palloc0(sizeof(RehomeChange));
		change->mapping = rehome_mapping_compile(lfirst(lc));
		change->everything = flag == 't';
		change->gone = tuplestore_begin_heap(false, false, work_mem);
		change->rows = tuplestore_begin_heap(false, false, work_mem);
		rehome_become(&as, slice->migration->owner);
		if (!change->everything)
			read_gone(conn, slice, change);
		read_rows(conn, slice, change);
		rehome_become_self(&as);
		batch->changes = lappend(batch->changes, change);
		batch->nrows += change->ngone + change->nrows;
	}
	rehome_debug_point("batch-read");
	batch->retry = truncated_meanwhile(conn, batch->changes);
	return batch;
}

/*
 * rehome_forward_apply applies a batch to the target and moves the position.
 * Returns the rows touched.
 */
int64
rehome_forward_apply(RehomeSlice *slice, RehomeBatch *batch)
{
	RehomeApplying applying;
	int64		touched = 0;
	ListCell   *lc;

	if (batch->changes == NIL && slice->lazy_position)
		return 0;
	rehome_applying_begin(&applying, slice->migration->owner);
	foreach(lc, batch->changes)
	{
		RehomeChange *change = lfirst(lc);

		if (change->everything)
		{
			touched += rehome_apply_delete_all(change->mapping);
			touched += rehome_apply_insert(change->mapping, change->rows, change->nrows);
		}
		else
		{
			touched += rehome_apply_gone(change->mapping, change->gone, change->ngone);
			touched += rehome_apply_rows(change->mapping, change->rows, change->nrows);
		}
		tuplestore_end(change->gone);
		tuplestore_end(change->rows);
	}
	rehome_applying_end(&applying);
	rehome_slice_set_position(slice, batch->position, touched, 0);
	rehome_debug_point("batch-applied");
	return touched;
}

/*
 * rehome_forward_batch reads and applies one batch.  With keep_open the
 * source transaction stays open on the batch's snapshot.  *result, if given,
 * is the batch (its stores are used up).  Returns the rows read.
 */
int64
rehome_forward_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
					 bool keep_open, RehomeBatch **result)
{
	RehomeBatch *batch;

	for (;;)
	{
		rehome_conn_begin(conn, "ISOLATION LEVEL REPEATABLE READ, READ ONLY");
		batch = rehome_forward_read(conn, slice, maps);
		if (!batch->retry)
			break;
		rehome_conn_rollback(conn);
		CHECK_FOR_INTERRUPTS();
	}
	if (!keep_open)
		rehome_conn_commit(conn);
	(void) rehome_forward_apply(slice, batch);
	if (result != NULL)
		*result = batch;
	return batch->nrows;
}

/*
 * rehome_forward_prune deletes change rows that no position will ask for
 * again.  position must be on disk at the target.
 */
void
rehome_forward_prune(RehomeConn *conn, RehomeSlice *slice, List *maps, const char *position)
{
	ListCell   *lc;

	rehome_conn_begin(conn, "");
	rehome_conn_query(conn, "UPDATE rehome_source.slice SET pruned = $3 WHERE token = $1 AND slice = $2::int",
					  "tit", slice->migration->token, slice->id, position);
	foreach(lc, maps)
		rehome_conn_exec(conn, psprintf("DELETE FROM %s WHERE %s",
										rehome_change_table(slice->migration, lfirst(lc)),
										rehome_position_seen(position)));
	rehome_conn_commit(conn);
}
