/*-------------------------------------------------------------------------
 *
 * compare_derived.c
 *	  Verifying derived data: its query is run once more, under the snapshot
 *	  of the verification, and compared with what the target has.
 *
 * What the query reads has been compared with the source by then.  While the
 * target has authority the application writes to derived tables, and there is
 * nothing to compare.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "derive/derive.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "verify/discrepancy.h"
#include "verify/verify.h"

/*
 * mark_name returns a name that no column of the target has.
 */
static char *
mark_name(Oid target)
{
	char	   *name = "rehome_has";

	while (get_attnum(target, name) != InvalidAttrNumber)
		name = psprintf("%s_", name);
	return name;
}

/* A function takes no more than 100 arguments, here a name and a value each. */
#define OBJECT_COLUMNS 50

/*
 * row_object returns the SQL of a row, whose columns have prefix, as jsonb.
 */
static char *
row_object(RehomeMapping *mapping, const char *prefix)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		if (i % OBJECT_COLUMNS == 0)
			appendStringInfo(&sql, "%sjsonb_build_object(", i > 0 ? ") OPERATOR(pg_catalog.||) " : "");
		appendStringInfo(&sql, "%s%s, %s%s", i % OBJECT_COLUMNS == 0 ? "" : ", ", quote_literal_cstr(mapping->columns[i].name),
						 prefix, quote_identifier(mapping->columns[i].name));
	}
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/*
 * difference_sql returns the query for what differs between the target and
 * the rows on hand: kind, key, columns, and both rows as jsonb.
 */
static char *
difference_sql(RehomeDerivation *derivation, RehomeMapping *mapping)
{
	StringInfoData sql;
	StringInfoData key;
	StringInfoData differing;
	char	   *mark = mark_name(derivation->target);

	initStringInfo(&sql);
	initStringInfo(&key);
	initStringInfo(&differing);
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		const char *name = quote_identifier(mapping->columns[i].name);
		char	   *literal = quote_literal_cstr(mapping->columns[i].name);

		if (mapping->columns[i].key > 0)
			appendStringInfo(&key, "%s%s, coalesce(n.%s, t.%s)", key.len ? ", " : "", literal, name, name);
		else
			appendStringInfo(&differing, "%sCASE WHEN ROW(n.%s)::record OPERATOR(pg_catalog.*<>) ROW(t.%s)::record THEN %s::text END",
							 differing.len ? ", " : "", name, name, literal);
	}
	/* a row has the key, which is not null; the mark tells which side has one */
	appendStringInfo(&sql, "SELECT CASE WHEN NOT t.%1$s IS TRUE THEN 'missing' WHEN %2$s THEN 'extra' ELSE 'differing' END,"
					 " jsonb_build_object(%3$s), CASE WHEN t.%1$s AND (n.%1$s OR %4$s) THEN array_remove(ARRAY[%5$s]::text[], NULL) END,"
					 " CASE WHEN n.%1$s THEN %6$s END, CASE WHEN t.%1$s THEN %7$s END"
					 " FROM (SELECT *, true AS %1$s FROM %8$s) AS t %9$s JOIN (SELECT *, true AS %1$s FROM rehome_rows) AS n ON %10$s"
					 " WHERE ",
					 mark, derivation->whole ? psprintf("NOT n.%s IS TRUE", mark) : "false", key.data,
					 derivation->whole ? "false" : "true", differing.data, row_object(mapping, "n."), row_object(mapping, "t."),
					 rehome_target_name(mapping), derivation->whole ? "FULL" : "LEFT",
					 rehome_key_condition(mapping, "t", "n"));
	if (derivation->whole)
		appendStringInfo(&sql, "t.%s IS NULL OR n.%s IS NULL OR ", mark, mark);
	appendStringInfo(&sql, "ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record",
					 rehome_quote_list(derivation->columns, "t."), rehome_quote_list(derivation->columns, "n."));
	return sql.data;
}

/*
 * compare compares one derivation, under the active snapshot, and records
 * what differs.  snapshot is what discrepancies are said to be of.
 */
static void
compare(RehomeSlice *slice, RehomeDerivation *derivation, const char *snapshot, RehomeVerdict *verdict)
{
	RehomeMapping *mapping = rehome_derivation_mapping(derivation);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	RehomeDiscrepancies *run;
	SPITupleTable *table;
	MemoryContext batch;
	RehomeAs	as;
	Portal		cursor;

	memset(verdict, 0, sizeof(*verdict));
	verdict->source_rows = rehome_store_query(&derivation->stated, rehome_derivation_sql(derivation, mapping, false),
											   mapping->mapped_desc, rows);
	rehome_become(&as, derivation->stated.owner);
	verdict->target_rows = rehome_int64(rehome_spi_read(psprintf("SELECT count(*) FROM %s", rehome_target_name(mapping)), "")->value[0][0]);
	rehome_become_self(&as);
	run = rehome_discrepancies_begin(slice, derivation->target, snapshot);
	run->partial = !derivation->whole;
	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, verdict->source_rows);
	rehome_become(&as, derivation->stated.owner);
	cursor = rehome_cursor_open(difference_sql(derivation, mapping));
	rehome_become_self(&as);
	batch = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome differences", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContext old;

		rehome_become(&as, derivation->stated.owner);
		table = rehome_cursor_fetch(cursor, REHOME_FETCH_ROWS);
		rehome_become_self(&as);
		if (table == NULL)
			break;
		old = MemoryContextSwitchTo(batch);
		for (uint64 i = 0; i < table->numvals; i++)
		{
			char	   *value[5];

			for (int c = 0; c < 5; c++)
				value[c] = SPI_getvalue(table->vals[i], table->tupdesc, c + 1);
			if (strcmp(value[0], "missing") == 0)
				verdict->missing++;
			else if (strcmp(value[0], "extra") == 0)
				verdict->extra++;
			else
				verdict->differing++;
			rehome_discrepancy_seen(run, value[0], value[1], value[2], value[3], value[4]);
		}
		SPI_freetuptable(table);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(cursor);
	MemoryContextDelete(batch);
	rehome_rows_unregister("rehome_rows");
	tuplestore_end(rows);
	rehome_discrepancies_end(run);
	/* of columns, what the query gives for rows that are not there does not count */
	verdict->kept = derivation->whole ? 0 : verdict->target_rows - verdict->source_rows;
}

/*
 * rehome_derived_slice returns the id of the slice in which a table's rows are
 * derived, or 0.
 */
int
rehome_derived_slice(RehomeMigration *migration, Oid target)
{
	RehomeRows *rows = rehome_spi("SELECT slice_id FROM rehome.derivation WHERE migration_id = $1 AND target = $2 AND whole", "io",
								  migration->id, target);

	return rows->n > 0 ? rehome_int(rows->value[0][0]) : 0;
}

/*
 * rehome_verify_derived compares the derivations of a slice, or those of one
 * target, under the active snapshot, and puts a row each as rehome.verify()
 * has them.  Adds to the counts of tables, of those that are not equal, of rows,
 * and of those that differ.
 */
void
rehome_verify_derived(RehomeSlice *slice, Oid target, const char *snapshot, ReturnSetInfo *rsinfo,
					  int *ntables, int *failed, int64 *nrows, int64 *wrong)
{
	ListCell   *lc;

	foreach(lc, rehome_derivations_get(slice))
	{
		RehomeDerivation *derivation = lfirst(lc);
		TimestampTz began = GetCurrentTimestamp();
		char	   *stale_since;
		RehomeVerdict verdict;

		if (OidIsValid(target) && derivation->target != target)
			continue;
		(*ntables)++;
		stale_since = rehome_spi_value("SELECT coalesce((SELECT min(at) FROM rehome.derivation_pending WHERE derivation_id = $1),"
									   " (SELECT error_since FROM rehome.derivation WHERE id = $1))", "i", derivation->id);
		if (stale_since == NULL)
		{
			compare(slice, derivation, snapshot, &verdict);
			*nrows += Max(verdict.source_rows + verdict.kept, verdict.target_rows);
			*wrong += verdict.missing + verdict.extra + verdict.differing;
		}
		if (stale_since != NULL || !rehome_verdict_equal(&verdict))
			(*failed)++;
		rehome_verdict_put(rsinfo, slice, derivation->target, stale_since ? NULL : &verdict, snapshot, began,
						   psprintf("derived: %s%s%s", derivation->name, stale_since ? ", stale since " : "",
									stale_since ? stale_since : ""));
	}
}
