/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  Comparing one table at the source with its target.
 *
 * Both sides hold still: the source in the transaction open on conn, the
 * target under the active snapshot.
 *
 * hash: each side sums up 64-bit hashes of its rows, in buckets of keys, in
 * one scan each, at the same time (hash.c).  Buckets that agree are equal; the
 * rows of the others are compared one by one.  Where the text of equal values
 * could differ (another encoding, floats of a source before 12, money), or a
 * column is computed, the rows are compared one by one right away.
 *
 * rows: the source's rows come through the compiled maps and are joined with
 * the target's by key.  Two rows differ when both their stored bytes and
 * their text do; so -0 and 0, 1.0 and 1.00, trailing blanks and microseconds
 * are differences, and another internal form of the same value is not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "apply/apply.h"
#include "apply/touched.h"
#include "copy/sieve.h"
#include "copy/stream.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/row_json.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "verify/discrepancy.h"
#include "verify/hash.h"
#include "verify/pace.h"
#include "verify/verify.h"

/* Names in difference_query() that no column has. */
#define THERE "\"rehome there\""
#define THERE_N "\"rehome source\""
#define THERE_T "\"rehome target\""

/*
 * compared lists the columns to compare: all that are mapped, but once the
 * target has authority only the key and those whose changes can be carried back.
 */
static List *
compared(RehomeSlice *slice, RehomeMapping *mapping)
{
	List	   *columns = NIL;

	for (int c = 0; c < mapping->ncolumns; c++)
	{
		RehomeMappedColumn *column = &mapping->columns[c];

		if (slice->state != REHOME_CUT_OVER || column->map->kind == REHOME_COPY ||
			column->map->inverse != NULL || column->key > 0)
			columns = lappend(columns, column);
	}
	return columns;
}

/*
 * column_names lists columns as one side calls them, after prefix.
 */
static char *
column_names(RehomeMapping *mapping, List *columns, const char *prefix, bool source)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s", buf.len ? ", " : "",
						 rehome_hash_column(mapping, lfirst(lc), prefix, source));
	return buf.data;
}

/* The part of a table that is compared. */
typedef struct Part
{
	const RehomeScope *scope;
	char	   *filter[2];		/* of the target, of the source; or NULL */
	RehomeTouched *touched;		/* keys on hand, the only ones; or NULL */
	char	   *change_table;	/* at the source, with the types of its key */
	char	   *ours;			/* condition: rows of the source that count although the filter hides them; or NULL */
} Part;

/* Parts of the range of a hash, for sample. */
#define SAMPLE_RANGE 1048576

/*
 * condition returns the SQL that is true of the rows in the part and, unless
 * it is NULL, in buckets; NULL when that is all rows.
 */
static char *
condition(Part *part, RehomeMapping *mapping, const char *prefix, bool source, RehomeBuckets *buckets)
{
	StringInfoData sql;
	const char *sep = "";

	initStringInfo(&sql);
	if (buckets != NULL)
	{
		appendStringInfoString(&sql, rehome_buckets_condition(buckets, prefix, source));
		sep = " AND ";
	}
	if (part->scope->sample > 0)
	{
		/* other bits than the bucket's */
		appendStringInfo(&sql, "%s(%s & %d) < %d", sep,
						 rehome_hash_key(mapping, prefix, source, part->scope->seed), SAMPLE_RANGE - 1, (int) ceil(part->scope->sample * SAMPLE_RANGE));
		sep = " AND ";
	}
	if (part->filter[source] != NULL)
	{
		appendStringInfo(&sql, "%s(%s)", sep, part->filter[source]);
		sep = " AND ";
	}
	if (part->touched != NULL)
	{
		/* both as a join with the keys on hand, which looks them up */
		const char *alias = pnstrdup(prefix, strlen(prefix) - 1);

		appendStringInfo(&sql, "%sEXISTS (SELECT FROM ", sep);
		if (source)
		{
			appendStringInfo(&sql, "jsonb_populate_recordset(NULL::%s, %s) AS k WHERE ", part->change_table,
							 quote_literal_cstr(part->touched->source_keys));
			rehome_join_key(&sql, mapping->map, rehome_touched_spelled(mapping), alias, "k");
		}
		else
			appendStringInfo(&sql, REHOME_TOUCHED_KEYS " AS k WHERE %s", rehome_key_condition(mapping, alias, "k"));
		appendStringInfoChar(&sql, ')');
	}
	return sql.len > 0 ? sql.data : NULL;
}

/*
 * where returns a WHERE clause of a condition, or nothing.
 */
static const char *
where(const char *condition)
{
	return condition != NULL ? psprintf(" WHERE %s", condition) : "";
}

/*
 * local_source returns the FROM of a source that this server reads itself.
 */
static char *
local_source(RehomeMapping *mapping, Part *part)
{
	RehomeTableMap *map = mapping->map;
	char	   *wanted = condition(part, mapping, "source.", true, NULL);

	if (map->filter != NULL)
		wanted = wanted ? psprintf("(%s) AND %s", map->filter, wanted) : psprintf("(%s)", map->filter);
	return psprintf("%s AS source%s", rehome_relation_name(map->source), where(wanted));
}

static void
append_source(StringInfo sql, RehomeMapping *mapping, Part *part, const char *condition)
{
	RehomeTableMap *map = mapping->map;
	const char *sep = " WHERE ";

	rehome_remote_from(sql, rehome_remote_table(map->source), NULL, false);
	if (map->filter != NULL)
	{
		appendStringInfo(sql, "%s((%s)%s%s)", sep, map->filter, part->ours ? " OR " : "", part->ours ? part->ours : "");
		sep = " AND ";
	}
	if (condition != NULL)
		appendStringInfo(sql, "%s%s", sep, condition);
}

/*
 * differing_buckets sums up both sides and returns the buckets, with those
 * marked that differ, or NULL when there are none.  Fills in the row counts.
 */
static RehomeBuckets *
differing_buckets(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
				  List *columns, Part *part, RehomeVerdict *verdict)
{
	Oid			owner = slice->migration->owner;
	RehomeBuckets *buckets = rehome_buckets_choose(conn, owner, mapping);
	RehomeBucketSums *here;
	RehomeBucketSums *there;
	StringInfoData from;
	char	   *chosen;
	int			ndiffering = 0;

	initStringInfo(&from);
	append_source(&from, mapping, part, condition(part, mapping, "source.", true, NULL));
	rehome_conn_send(conn, rehome_buckets_query(buckets, columns, "source.", from.data));
	chosen = condition(part, mapping, "t.", false, NULL);
	here = chosen == NULL && mapping->map->on_delete != 'm' ?
		rehome_hash_table(buckets, owner, columns) :
		rehome_hash_query(buckets, owner, columns, "t.", psprintf("%s AS t%s", rehome_live_rows(mapping), where(chosen)));
	there = rehome_buckets_take(buckets, columns, rehome_conn_receive(conn));
	for (int b = 0; b <= REHOME_BUCKETS; b++)
	{
		size_t		at = (size_t) b * here->nchains;

		verdict->target_rows += here->rows[b];
		verdict->source_rows += there->rows[b];
		buckets->differing[b] = here->rows[b] != there->rows[b] ||
			memcmp(&here->sums[at], &there->sums[at], sizeof(uint64) * here->nchains) != 0;
		ndiffering += buckets->differing[b];
	}
	elog(DEBUG1, "%s: %d %s differ", rehome_relation_name(mapping->map->target), ndiffering,
		 buckets->by_range ? "ranges of keys" : "buckets");
	return ndiffering > 0 ? buckets : NULL;
}

/* One difference, as text. */
typedef struct Difference
{
	char	   *kind;
	char	   *key;
	char	   *source_row;
	char	   *target_row;
	char	   *columns;
} Difference;

/*
 * row_json returns a column of difference_query that is a row as JSON; NULL
 * for no row.
 */
static char *
row_json(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		row = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? NULL : rehome_record_json(row);
}

/*
 * read_differences reads rows of difference_query, as the migration's owner:
 * that may run functions of their types.
 */
static Difference *
read_differences(SPITupleTable *table)
{
	Difference *differences = palloc(sizeof(Difference) * table->numvals);

	for (uint64 i = 0; i < table->numvals; i++)
	{
		HeapTuple	tuple = table->vals[i];

		differences[i].kind = SPI_getvalue(tuple, table->tupdesc, 1);
		differences[i].key = SPI_getvalue(tuple, table->tupdesc, 2);
		differences[i].source_row = row_json(tuple, table->tupdesc, 3);
		differences[i].target_row = row_json(tuple, table->tupdesc, 4);
		differences[i].columns = SPI_getvalue(tuple, table->tupdesc, 5);
	}
	return differences;
}

/*
 * difference_query returns the SQL that joins the source's rows on hand with
 * the target's and gives what differs: kind, key, source row, target row, and
 * the columns that differ.
 */
static char *
difference_query(RehomeMapping *mapping, List *columns, Part *part, RehomeBuckets *buckets)
{
	StringInfoData sql;
	StringInfoData key;
	StringInfoData differing;
	ListCell   *lc;
	char	   *all_t = column_names(mapping, columns, THERE_T ".", false);
	char	   *all_n = column_names(mapping, columns, THERE_N ".", false);

	initStringInfo(&key);
	for (int k = 0; k < mapping->nkey; k++)
	{
		const char *name = quote_identifier(mapping->key[k]->name);

		appendStringInfo(&key, "%s%s, coalesce(" THERE_N ".%s, " THERE_T ".%s)", k > 0 ? ", " : "",
						 quote_literal_cstr(mapping->key[k]->name), name, name);
	}
	/* which columns differ, by the same measure as the rows: jsonb takes 1.0 for 1.00 */
	initStringInfo(&differing);
	foreach(lc, columns)
	{
		RehomeMappedColumn *column = lfirst(lc);
		const char *name = quote_identifier(column->name);

		appendStringInfo(&differing, "%sCASE WHEN ROW(" THERE_T ".%s)::record OPERATOR(pg_catalog.*<>) ROW(" THERE_N ".%s)::record"
						 " AND ROW(" THERE_T ".%s)::text <> ROW(" THERE_N ".%s)::text THEN %s END",
						 differing.len > 0 ? ", " : "", name, name, name, name, quote_literal_cstr(column->name));
	}
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT CASE WHEN " THERE_T "." THERE " IS NULL THEN 'missing'"
					 " WHEN " THERE_N "." THERE " IS NULL THEN 'extra' ELSE 'differing' END,"
					 " jsonb_build_object(%s),"
					 " CASE WHEN " THERE_N "." THERE " THEN (SELECT \"rehome row\" FROM (SELECT %s) AS \"rehome row\") END,"
					 " CASE WHEN " THERE_T "." THERE " THEN (SELECT \"rehome row\" FROM (SELECT %s) AS \"rehome row\") END,"
					 " CASE WHEN " THERE_T "." THERE " AND " THERE_N "." THERE " THEN (SELECT array_agg(c ORDER BY c COLLATE \"C\")"
					 "  FROM unnest(ARRAY[%s]::text[]) AS c WHERE c IS NOT NULL) END"
					 " FROM (SELECT true AS " THERE ", %s FROM rehome_rows AS " THERE_N ") AS " THERE_N
					 " FULL JOIN (SELECT true AS " THERE ", %s FROM %s AS " THERE_T "%s) AS " THERE_T " ON %s"
					 " WHERE " THERE_T "." THERE " IS NULL OR " THERE_N "." THERE " IS NULL"
					 " OR (ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record AND ROW(%s)::text <> ROW(%s)::text)",
					 key.data, all_n, all_t, differing.data, all_n, all_t, rehome_live_rows(mapping),
					 where(condition(part, mapping, THERE_T ".", false, buckets)),
					 rehome_key_condition(mapping, THERE_T, THERE_N),
					 all_t, all_n, all_t, all_n);
	return sql.data;
}

/*
 * count_target returns how many rows of the target are in the part.
 */
static int64
count_target(Oid owner, RehomeMapping *mapping, Part *part)
{
	return rehome_int64(rehome_spi_as(owner, true, psprintf("SELECT count(*) FROM %s AS t%s", rehome_live_rows(mapping),
															where(condition(part, mapping, "t.", false, NULL))))->value[0][0]);
}

/*
 * compare_rows compares row by row, all of them or some buckets.
 */
static void
compare_rows(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping, List *columns,
			 Part *part, RehomeBuckets *buckets, RehomeDiscrepancies *run, RehomeVerdict *verdict)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	RehomeTaker taker = {rehome_receive_store, NULL, NULL, NULL, store};
	RehomeSieve *sieve = NULL;
	RehomeProjector *projector;
	RehomeAs	as;
	StringInfoData sql;
	MemoryContext batch;		/* there may be millions of differences */
	Portal		cursor;
	SPITupleTable *table;
	int64		n;
	int64		sieved = 0;		/* rows left out, for whatever reason */

	initStringInfo(&sql);
	if (conn != NULL && mapping->tolerant)
		sieve = rehome_sieve_begin(slice, mapping, &taker, true);
	rehome_become(&as, slice->migration->owner);
	projector = rehome_projector_mapped(mapping);
	if (conn != NULL)
	{
		List	   *read = rehome_mapping_source_columns(mapping);

		appendStringInfo(&sql, "SELECT %s FROM ", rehome_quote_list(read, "source."));
		append_source(&sql, mapping, part, condition(part, mapping, "source.", true, buckets));
		n = rehome_stream(conn, sql.data, mapping, read, projector, rehome_receive_store, store, NULL);
	}
	else
	{
		appendStringInfo(&sql, "SELECT %s FROM %s", rehome_source_row(mapping, rehome_mapping_source_columns(mapping)),
						 local_source(mapping, part));
		n = rehome_stream_local(sql.data, mapping, projector, rehome_receive_store, store);
	}
	rehome_projector_end(projector);
	if (sieve != NULL)
	{
		verdict->quarantined += sieve->explained;
		verdict->missing += sieve->refused;
		run->unrecorded += sieve->refused;
		sieved = sieve->explained + sieve->refused;
		rehome_become_self(&as);
		rehome_sieve_end(sieve);
		rehome_become(&as, slice->migration->owner);
	}
	if (buckets == NULL)
		verdict->source_rows += n + sieved;

	batch = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome differences", ALLOCSET_DEFAULT_SIZES);
	rehome_rows_register("rehome_rows", mapping->mapped_desc, store, n);
	cursor = rehome_cursor_open(difference_query(mapping, columns, part, buckets));
	while ((table = rehome_cursor_fetch(cursor, 100)) != NULL)
	{
		/* the query is the owner's, the record is ours */
		MemoryContext old = MemoryContextSwitchTo(batch);
		Difference *differences = read_differences(table);

		rehome_become_self(&as);
		for (uint64 i = 0; i < table->numvals; i++)
		{
			Difference *d = &differences[i];

			if (mapping->map->on_delete == 'i' && strcmp(d->kind, "extra") == 0)
			{
				verdict->kept++;
				continue;
			}
			if (strcmp(d->kind, "missing") == 0)
				verdict->missing++;
			else if (strcmp(d->kind, "extra") == 0)
				verdict->extra++;
			else
				verdict->differing++;
			rehome_discrepancy_seen(run, d->kind, d->key, d->columns, d->source_row, d->target_row);
		}
		SPI_freetuptable(table);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch);
		rehome_become(&as, slice->migration->owner);
	}
	SPI_cursor_close(cursor);
	rehome_become_self(&as);
	rehome_rows_unregister("rehome_rows");
	tuplestore_end(store);
	MemoryContextDelete(batch);
	if (buckets == NULL)
		verdict->target_rows += count_target(slice->migration->owner, mapping, part);
}

static void
compare_counts(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
			   Part *part, RehomeVerdict *verdict)
{
	Oid			owner = slice->migration->owner;
	StringInfoData sql;

	verdict->counted_only = true;
	verdict->quarantined = rehome_int64(rehome_spi_value("SELECT count(*) FROM rehome.quarantine WHERE migration = $1::name"
														 " AND slice = $2::name AND target = $3 AND source_key IS NOT NULL",
														 "tto", slice->migration->name, slice->name, mapping->map->target));
	if (verdict->quarantined > 0 && !rehome_scope_is_whole(part->scope))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a part of %s cannot be counted", rehome_relation_name(mapping->map->target)),
				errdetail("Rows of it are in quarantine, and which of them belong to the part is not known."),
				errhint("Use mode hash or rows."));
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT count(*) FROM ");
	if (conn != NULL)
	{
		append_source(&sql, mapping, part, condition(part, mapping, "source.", true, NULL));
		rehome_conn_send(conn, sql.data);
	}
	else
	{
		appendStringInfoString(&sql, local_source(mapping, part));
		verdict->source_rows = rehome_int64(rehome_spi_as(owner, true, sql.data)->value[0][0]);
	}
	verdict->target_rows = count_target(owner, mapping, part);
	if (conn != NULL)
		verdict->source_rows = rehome_int64(rehome_conn_receive(conn)->value[0][0]);
}

/*
 * find_ours finds out which rows of the source are the migration's although the
 * filter does not let them through: those that were written at the target.
 */
static char *
find_ours(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping)
{
	RehomeTableMap *map = mapping->map;
	char	   *outside;
	StringInfoData sql;

	if (conn == NULL || map->filter == NULL || slice->state != REHOME_CUT_OVER)
		return NULL;
	outside = rehome_outside_table(slice->migration, map);
	if (!rehome_bool(rehome_conn_value(conn, "SELECT to_regclass($1) IS NOT NULL", "t", outside)))
		return NULL;
	initStringInfo(&sql);
	appendStringInfo(&sql, "EXISTS (SELECT FROM %s AS o WHERE ", outside);
	rehome_join_key(&sql, map, NULL, "source", "o");
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/*
 * choose_part finds out how the two sides choose the rows of a scope.
 */
static void
choose_part(Part *part, RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
			const RehomeScope *scope)
{
	memset(part, 0, sizeof(*part));
	part->scope = scope;
	part->ours = find_ours(conn, slice, mapping);
	if (scope->filter != NULL)
		rehome_scope_filter(scope, slice->migration->owner, mapping, &part->filter[true], &part->filter[false]);
	if (scope->sample > 0 && !rehome_hash_possible(conn, mapping, NIL))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("the keys of %s cannot be sampled", rehome_relation_name(mapping->map->target)),
				errdetail("The source has to choose the same keys by their hash; that takes PostgreSQL 11 there, the same encoding, and a key that is copied as it is."),
				errhint("Give a filter, or leave out sample."));
}

/*
 * compare_touched compares the touched rows, a part of them at a time.
 */
static void
compare_touched(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping, List *columns,
				Part *part, RehomeDiscrepancies *run, RehomeVerdict *verdict)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome touched rows",
												  ALLOCSET_DEFAULT_SIZES);

	part->touched = rehome_touched_open(mapping, slice->migration->owner);
	part->change_table = rehome_change_table(slice->migration, mapping->map);
	while (rehome_touched_next(part->touched))
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		rehome_pace_part(conn);
		compare_rows(conn, slice, mapping, columns, part, NULL, run, verdict);
		rehome_pace_rows(part->touched->n);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	verdict->keys = part->touched->total;
	rehome_touched_close(part->touched);
	MemoryContextDelete(context);
}

/*
 * expected_rows returns how many rows the target has, as far as the differences
 * that were found tell.
 */
static int64
expected_rows(const RehomeVerdict *verdict)
{
	return verdict->source_rows - verdict->quarantined - verdict->missing + verdict->extra + verdict->kept;
}

/*
 * rehome_compare compares one table.  conn is NULL for a source this server
 * reads itself.  Differences are recorded in rehome.discrepancy, and those
 * that are there no more are closed, unless scope is only a part.  Rows that
 * were touched are no part: the others are known to be equal.
 */
void
rehome_compare(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
			   RehomeVerifyMode mode, const RehomeScope *scope, const char *snapshot,
			   RehomeVerdict *verdict)
{
	List	   *columns = compared(slice, mapping);
	RehomeDiscrepancies *run;
	int64		surplus;
	Part		part;

	choose_part(&part, conn, slice, mapping, scope);
	memset(verdict, 0, sizeof(*verdict));
	verdict->recorded = true;
	if (mode == REHOME_VERIFY_COUNT)
	{
		compare_counts(conn, slice, mapping, &part, verdict);
		return;
	}
	run = rehome_discrepancies_begin(slice, mapping->map->target, snapshot);
	run->partial = !rehome_scope_is_whole(scope);
	if (scope->touched)
		compare_touched(conn, slice, mapping, columns, &part, run, verdict);
	else if (mode == REHOME_VERIFY_HASH && rehome_hash_possible(conn, mapping, columns))
	{
		RehomeBuckets *buckets = differing_buckets(conn, slice, mapping, columns, &part, verdict);

		if (buckets != NULL)
			compare_rows(conn, slice, mapping, columns, &part, buckets, run, verdict);
	}
	else
		compare_rows(conn, slice, mapping, columns, &part, NULL, run, verdict);

	/* rows that share a key are found by it, as often as they are there, and not told apart */
	surplus = verdict->target_rows - expected_rows(verdict);
	verdict->extra += Max(surplus, 0);
	verdict->missing += Max(-surplus, 0);
	run->unrecorded += Max(surplus, -surplus);
	if (run->unrecorded > 0)
		verdict->recorded = false;
	rehome_discrepancies_end(run);
}
