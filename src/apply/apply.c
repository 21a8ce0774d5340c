/*-------------------------------------------------------------------------
 *
 * apply.c
 *	  Making target rows what they should be, with set-based SQL.
 *
 * Projected rows wait in tuplestores (memory, then disk: any batch fits),
 * which the statements here see as relations.  Working on sets lets the
 * planner choose between index probes and a hash join, and serves any target
 * the executor can write: plain, partitioned, with rules.
 *
 * Order, within one table:
 *
 *	1. delete the keys that are gone,
 *	2. take out, and then put back, the rows that change a column of another
 *	   unique index (or of an exclusion constraint), so that values can be
 *	   exchanged between rows; unmapped columns keep what they hold,
 *	3. update the rows that differ; equality is that of the stored bytes
 *	   (record_image_ne), so 1.0 and 1.00 differ and no type needs an operator,
 *	4. insert what is missing.
 *
 * Steps 3 and 4 need no statement where the table is plain (direct.c).
 *
 * No user trigger and no foreign key fires: replica role, as for logical
 * replication.  Between tables order does not matter for that reason.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "apply/apply.h"
#include "capture/capture.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "guc.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "remote/query.h"
#include "util/name.h"
#include "rewrite/rewriteHandler.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"

/*
 * compress_images has the images of pages that are written first after a
 * checkpoint compressed, unless the server does that anyway.  Rows that change
 * are spread over a table: its pages' images are most of what a batch writes,
 * and to write them takes longer than to compress them by lz4, where that was
 * built in.
 */
static void
compress_images(void)
{
	if (strcmp(GetConfigOption("wal_compression", false, false), "off") == 0)
		(void) set_config_option("wal_compression", "lz4", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, DEBUG1, false);
}

/*
 * rehome_applying_begin makes the following statements ours: as owner, in
 * replica role, let through by the guard of the map's target, waiting for locks
 * no longer than rehome.lock_timeout: a transaction is open at the source
 * meanwhile.  An abort undoes it all.
 */
void
rehome_applying_begin(RehomeApplying *applying, Oid owner, RehomeTableMap *map)
{
	applying->guc_level = NewGUCNestLevel();
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	rehome_limit_lock_waits(rehome_lock_timeout);
	compress_images();
	rehome_become(&applying->as, owner);
	rehome_own_writes_begin(map->target, map->on_delete == 'a' ? map->delete_archive : InvalidOid);
}

void
rehome_applying_end(RehomeApplying *applying)
{
	rehome_own_writes_end();
	rehome_become_self(&applying->as);
	AtEOXact_GUC(true, applying->guc_level);
}

/*
 * rehome_rows_read stores what a query returns, and in *desc (unless that is
 * NULL) what it looks like.  Returns the number of rows.
 */
int64
rehome_rows_read(const char *sql, Tuplestorestate *store, TupleDesc *desc)
{
	Portal		cursor = rehome_cursor_open(sql);
	SPITupleTable *table;
	int64		n = 0;

	if (desc != NULL)
		*desc = CreateTupleDescCopy(cursor->tupDesc);
	while ((table = rehome_cursor_fetch(cursor, REHOME_FETCH_ROWS)) != NULL)
	{
		for (uint64 i = 0; i < table->numvals; i++)
			tuplestore_puttuple(store, table->vals[i]);
		n += table->numvals;
		SPI_freetuptable(table);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(cursor);
	return n;
}

/*
 * rehome_rows_register lets SQL see a tuplestore of n rows as a relation.
 */
void
rehome_rows_register(const char *name, TupleDesc desc, Tuplestorestate *store, int64 n)
{
	EphemeralNamedRelation enr;
	MemoryContext context = CurrentMemoryContext;
	int			rc;

	/* SPI makes its list of relations in the current memory context */
	MemoryContextSwitchTo(PortalContext);
	enr = palloc0(sizeof(EphemeralNamedRelationData));
	enr->md.name = pstrdup(name);
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = (double) n;
	enr->reldata = store;
	rc = SPI_register_relation(enr);
	MemoryContextSwitchTo(context);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\": %s", name, SPI_result_code_string(rc));
}

void
rehome_rows_unregister(const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	int			rc = SPI_unregister_relation(name);

	MemoryContextSwitchTo(context);
	if (rc != SPI_OK_REL_UNREGISTER)
		elog(ERROR, "could not unregister \"%s\": %s", name, SPI_result_code_string(rc));
}

/*
 * rehome_target_name returns the target's qualified name.
 */
char *
rehome_target_name(RehomeMapping *mapping)
{
	Oid			relid = mapping->map->target;

	return rehome_relation_name(relid);
}

/*
 * rehome_mapped_list returns the mapped columns, each after prefix.
 */
char *
rehome_mapped_list(RehomeMapping *mapping, const char *prefix)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < mapping->ncolumns; i++)
		appendStringInfo(&buf, "%s%s%s", i > 0 ? ", " : "", prefix,
						 quote_identifier(mapping->columns[i].name));
	return buf.data;
}

/*
 * rehome_key_condition returns "a.k = b.k AND ..." with the key's operators.
 */
char *
rehome_key_condition(RehomeMapping *mapping, const char *a, const char *b)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int k = 0; k < mapping->nkey; k++)
	{
		const char *name = quote_identifier(mapping->key[k]->name);

		appendStringInfo(&buf, "%s%s.%s %s %s.%s", k > 0 ? " AND " : "",
						 a, name, mapping->key[k]->equal, b, name);
	}
	return buf.data;
}

/*
 * add_index_columns adds the names of all columns an index depends on.
 */
static void
add_index_columns(Relation rel, Relation index, Bitmapset **attnos)
{
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
		if (index->rd_index->indkey.values[i] != 0)
			*attnos = bms_add_member(*attnos, index->rd_index->indkey.values[i] -
									 FirstLowInvalidHeapAttributeNumber);
	pull_varattnos((Node *) RelationGetIndexExpressions(index), 1, attnos);
	pull_varattnos((Node *) RelationGetIndexPredicate(index), 1, attnos);

	/* a generated column changes with what it is computed from */
	for (int i = 0; i < rel->rd_att->natts; i++)
		if (TupleDescAttr(rel->rd_att, i)->attgenerated != '\0' &&
			bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, *attnos))
			pull_varattnos(build_column_default(rel, i + 1), 1, attnos);
}

/*
 * fragile_columns lists the mapped columns, other than a key that cannot
 * change, whose update could meet another row half way: those of unique and
 * exclusion indexes besides the key's, of the target or any partition, and
 * identity columns an UPDATE may not set.  char *.
 */
static List *
fragile_columns(RehomeMapping *mapping)
{
	List	   *names = NIL;
	List	   *fragile = NIL;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(mapping->map->target, AccessShareLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), AccessShareLock);
		Bitmapset  *attnos = NULL;
		ListCell   *lc2;
		int			i = -1;

		foreach(lc2, RelationGetIndexList(rel))
		{
			Relation	index = index_open(lfirst_oid(lc2), AccessShareLock);

			if (index->rd_index->indisunique || index->rd_index->indisexclusion)
				add_index_columns(rel, index, &attnos);
			index_close(index, AccessShareLock);
		}
		while ((i = bms_next_member(attnos, i)) >= 0)
		{
			AttrNumber	attnum = i + FirstLowInvalidHeapAttributeNumber;

			if (attnum > 0)
				names = lappend(names, get_attname(RelationGetRelid(rel), attnum, false));
		}
		table_close(rel, AccessShareLock);
	}
	for (int c = 0; c < mapping->ncolumns; c++)
	{
		RehomeMappedColumn *column = &mapping->columns[c];
		bool		wanted = column->identity_always;

		foreach(lc, names)
			wanted = wanted || strcmp(lfirst(lc), column->name) == 0;
		if (wanted && column->key == 0)
			fragile = lappend(fragile, column->name);
	}
	return fragile;
}

/*
 * rehome_apply_is_fragile tells whether rows may have to be taken out before
 * others come: they must then be applied all at once.
 */
bool
rehome_apply_is_fragile(RehomeMapping *mapping)
{
	return fragile_columns(mapping) != NIL;
}

/*
 * set_identity says what of a target's rows the log has of old ones.
 */
static void
set_identity(RehomeMapping *mapping, const char *identity)
{
	RehomeAs	as;

	rehome_become_catalog_owner(&as);
	rehome_spi(psprintf("ALTER TABLE %s REPLICA IDENTITY %s", rehome_target_name(mapping), identity), "");
	rehome_become_self(&as);
}

/*
 * lacks_identity tells whether the index that the target's rows are published
 * by is not there: a copy has taken it off.  It will say itself what it is for
 * when it is put back.
 */
static bool
lacks_identity(RehomeMapping *mapping)
{
	return rehome_spi("SELECT FROM pg_class c WHERE c.oid = $1 AND c.relkind = 'r' AND c.relreplident IN ('d', 'i')"
					  " AND EXISTS (SELECT FROM pg_publication) AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid"
					  "  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END)",
					  "o", mapping->map->target)->n > 0;
}

/*
 * rehome_apply_delete_all empties the target.
 */
int64
rehome_apply_delete_all(RehomeMapping *mapping)
{
	bool		lacking = lacks_identity(mapping);
	int64		n;

	if (lacking)
		set_identity(mapping, "FULL");
	n = (int64) rehome_spi(psprintf("DELETE FROM %s", rehome_target_name(mapping)), "")->processed;
	if (lacking)
		set_identity(mapping, "DEFAULT");
	return n;
}

/*
 * treat does with target rows of a condition over "t" what a table's rule can
 * say of rows that are gone at the source: d(elete), m(ark), put into the
 * a(rchive), or i(gnore).
 */
static int64
treat(RehomeMapping *mapping, char treatment, const char *condition)
{
	RehomeTableMap *map = mapping->map;
	char	   *target = rehome_target_name(mapping);

	switch (treatment)
	{
		case 'm':
			{
				const char *column = quote_identifier(map->delete_column);
				bool		flag = get_atttype(map->target, get_attnum(map->target, map->delete_column)) == BOOLOID;

				return (int64) rehome_spi(psprintf("UPDATE %s AS t SET %s = %s WHERE %s AND t.%s %s", target, column,
												   flag ? "true" : "now()", condition, column,
												   flag ? "IS NOT TRUE" : "IS NULL"), "")->processed;
			}
		case 'a':
			{
				char	   *columns = rehome_spi_value("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)"
													   " FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
													   "o", map->target);

				return (int64) rehome_spi(psprintf("WITH gone AS (DELETE FROM %s AS t WHERE %s RETURNING t.*)"
												   " INSERT INTO %s (%s) SELECT %s FROM gone", target, condition,
												   rehome_relation_name(map->delete_archive), columns, columns), "")->processed;
			}
		case 'i':
			return 0;
		default:
			return (int64) rehome_spi(psprintf("DELETE FROM %s AS t WHERE %s", target, condition), "")->processed;
	}
}

/*
 * unmark takes the mark off rows that have come back; the rows
 * on hand are registered.
 */
static int64
unmark(RehomeMapping *mapping)
{
	const char *column;

	if (mapping->map->on_delete != 'm')
		return 0;
	column = quote_identifier(mapping->map->delete_column);
	return (int64) rehome_spi(psprintf("UPDATE %s AS t SET %s = DEFAULT FROM rehome_rows AS n WHERE %s AND %s",
									   rehome_target_name(mapping), column, rehome_key_condition(mapping, "t", "n"),
									   rehome_marked(mapping, "t.")), "")->processed;
}

/*
 * rehome_marked returns the condition that a target row is marked as gone.
 */
char *
rehome_marked(RehomeMapping *mapping, const char *prefix)
{
	RehomeTableMap *map = mapping->map;
	bool		flag = get_atttype(map->target, get_attnum(map->target, map->delete_column)) == BOOLOID;

	return psprintf("%s%s IS %s", prefix, quote_identifier(map->delete_column), flag ? "TRUE" : "NOT NULL");
}

/*
 * rehome_live_rows returns the target, without rows that are marked as gone at
 * the source.
 */
char *
rehome_live_rows(RehomeMapping *mapping)
{
	if (mapping->map->on_delete != 'm')
		return rehome_target_name(mapping);
	return psprintf("(SELECT * FROM %s AS m WHERE (%s) IS NOT TRUE)", rehome_target_name(mapping),
					rehome_marked(mapping, "m."));
}

/*
 * rehome_apply_gone_treated treats the keys (rows of key_desc) as gone at the
 * source; with absent, all keys of the target but these.
 */
int64
rehome_apply_gone_treated(RehomeMapping *mapping, Tuplestorestate *keys, int64 n, bool absent)
{
	int64		touched;

	if (n == 0 && !absent)
		return 0;
	rehome_rows_register("rehome_gone", mapping->key_desc, keys, n);
	touched = treat(mapping, mapping->map->on_delete,
					psprintf("%sEXISTS (SELECT FROM rehome_gone AS n WHERE %s)", absent ? "NOT " : "",
							 rehome_same_row(mapping, "t", "n")));
	rehome_rows_unregister("rehome_gone");
	return touched;
}

/*
 * rehome_apply_refused deletes what the target has of rows with these keys (rows
 * of key_desc), whatever it is called there.
 */
int64
rehome_apply_refused(RehomeMapping *mapping, Tuplestorestate *keys, int64 n)
{
	int64		touched;

	rehome_rows_register("rehome_gone", mapping->key_desc, keys, n);
	rehome_respelled_begin(mapping);
	touched = treat(mapping, 'd', psprintf("EXISTS (SELECT FROM rehome_gone AS n WHERE %s AND %s)",
										   rehome_key_condition(mapping, "t", "n"), rehome_takes_over(mapping, "t", "n")));
	rehome_respelled_end(mapping);
	rehome_rows_unregister("rehome_gone");
	return touched;
}

/*
 * rehome_absent_keys stores the keys of target rows "t" of a condition that are
 * not among those present (both rows of key_desc), and returns their number.
 */
int64
rehome_absent_keys(RehomeMapping *mapping, const char *within, Tuplestorestate *present,
				   int64 npresent, Tuplestorestate *absent)
{
	int64		n;

	rehome_rows_register("rehome_present", mapping->key_desc, present, npresent);
	n = rehome_rows_read(psprintf("SELECT %s FROM %s AS t WHERE (%s) AND NOT EXISTS (SELECT FROM rehome_present AS n WHERE %s)",
								  rehome_quote_list(mapping->map->key, "t."), rehome_target_name(mapping), within,
								  rehome_same_row(mapping, "t", "n")), absent, NULL);
	rehome_rows_unregister("rehome_present");
	return n;
}

/*
 * kept_columns lists the columns a target row has besides the mapped ones,
 * and that are not computed.  char *.
 */
static List *
kept_columns(RehomeMapping *mapping)
{
	Relation	rel = table_open(mapping->map->target, AccessShareLock);
	List	   *names = NIL;

	for (int i = 0; i < rel->rd_att->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(rel->rd_att, i);
		bool		mapped = att->attisdropped || att->attgenerated != '\0';

		for (int c = 0; c < mapping->ncolumns; c++)
			mapped = mapped || mapping->columns[c].attnum == att->attnum;
		if (!mapped)
			names = lappend(names, pstrdup(NameStr(att->attname)));
	}
	table_close(rel, AccessShareLock);
	return names;
}

/*
 * rehome_apply_keeps tells whether a target row has something that the source
 * does not say.
 */
bool
rehome_apply_keeps(RehomeMapping *mapping)
{
	return kept_columns(mapping) != NIL;
}

/*
 * replace_fragile is step 2.  All rows are deleted before the first comes
 * back (the sort sees to that), with what their unmapped columns held.
 */
static int64
replace_fragile(RehomeMapping *mapping)
{
	List	   *fragile = fragile_columns(mapping);
	List	   *kept;
	char	   *target = rehome_target_name(mapping);
	char	   *changed;

	if (fragile == NIL)
		return 0;
	kept = kept_columns(mapping);
	changed = psprintf("%s AND ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record",
					   rehome_key_condition(mapping, "t", "n"),
					   rehome_quote_list(fragile, "t."), rehome_quote_list(fragile, "n."));
	if (rehome_spi(psprintf("SELECT FROM %s AS t JOIN rehome_rows AS n ON %s LIMIT 1", target, changed), "")->n == 0)
		return 0;
	return (int64) rehome_spi(psprintf("WITH gone AS (DELETE FROM %s AS t USING rehome_rows AS n WHERE %s RETURNING t.*)"
									   " INSERT INTO %s (%s%s%s) OVERRIDING SYSTEM VALUE"
									   " SELECT %s%s%s FROM (SELECT * FROM gone ORDER BY %s) AS t"
									   " JOIN rehome_rows AS n ON %s",
									   target, changed, target,
									   rehome_mapped_list(mapping, ""), kept ? ", " : "", rehome_quote_list(kept, ""),
									   rehome_mapped_list(mapping, "n."), kept ? ", " : "", rehome_quote_list(kept, "t."),
									   rehome_quote_list(mapping->map->key, ""),
									   rehome_key_condition(mapping, "t", "n")), "")->processed;
}

/*
 * has_rules tells whether statements on the target are rewritten, which MERGE
 * does not do.
 */
static bool
has_rules(RehomeMapping *mapping)
{
	Relation	rel = table_open(mapping->map->target, AccessShareLock);
	bool		rules = rel->rd_rules != NULL;

	table_close(rel, AccessShareLock);
	return rules;
}

/*
 * assignments returns "c = n.c, ..." for the columns an UPDATE may set.
 */
static char *
assignments(RehomeMapping *mapping)
{
	StringInfoData set;

	initStringInfo(&set);
	for (int i = 0; i < mapping->ncolumns; i++)
		if (!mapping->columns[i].identity_always)
			appendStringInfo(&set, "%s%s = n.%s", set.len ? ", " : "",
							 quote_identifier(mapping->columns[i].name),
							 quote_identifier(mapping->columns[i].name));
	return set.data;
}

/*
 * forget_plan lets go of the MERGE of a batch.
 */
static void
forget_plan(RehomeMapping *mapping)
{
	if (mapping->merge != NULL)
		(void) SPI_freeplan(mapping->merge);
	mapping->merge = NULL;
}

/*
 * merge runs a MERGE of n rows.  A batch comes in many parts; that is planned
 * anew only when they have doubled: the plan for a table that was empty when
 * the batch began goes through all of it for each row.
 */
static int64
merge(RehomeMapping *mapping, const char *sql, int64 n)
{
	if (mapping->merged >= 2 * mapping->merged_before)
		forget_plan(mapping);
	if (mapping->merge == NULL)
		mapping->merged_before = mapping->merged;
	mapping->merged += n;
	return (int64) rehome_spi_planned(&mapping->merge, sql, "")->processed;
}

/*
 * differs returns the condition that a target row is not what the one on hand
 * says.
 */
static char *
differs(RehomeMapping *mapping)
{
	return psprintf("ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record",
					rehome_mapped_list(mapping, "t."), rehome_mapped_list(mapping, "n."));
}

/*
 * update_rows is step 3.
 */
static int64
update_rows(RehomeMapping *mapping)
{
	char	   *set = assignments(mapping);

	if (set[0] == '\0')
		return 0;
	return (int64) rehome_spi(psprintf("UPDATE %s AS t SET %s FROM rehome_rows AS n WHERE %s AND %s",
									   rehome_target_name(mapping), set, rehome_key_condition(mapping, "t", "n"),
									   differs(mapping)), "")->processed;
}

/*
 * upsert is steps 3 and 4 for n rows, in one pass where MERGE can do it.
 */
static int64
upsert(RehomeMapping *mapping, int64 n)
{
	char	   *target = rehome_target_name(mapping);
	char	   *join = rehome_key_condition(mapping, "t", "n");
	char	   *set = assignments(mapping);
	char	   *columns = rehome_mapped_list(mapping, "");
	char	   *values = rehome_mapped_list(mapping, "n.");
	int64		touched;

	if (!has_rules(mapping))
		return merge(mapping,
					 psprintf("MERGE INTO %s AS t USING rehome_rows AS n ON %s"
							  "%s WHEN NOT MATCHED THEN INSERT (%s) OVERRIDING SYSTEM VALUE VALUES (%s)",
							  target, join, set[0] == '\0' ? "" :
							  psprintf(" WHEN MATCHED AND %s THEN UPDATE SET %s", differs(mapping), set),
							  columns, values), n);
	touched = update_rows(mapping);
	return touched + (int64) rehome_spi(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM rehome_rows AS n"
												 " WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)",
												 target, columns, values, target, join), "")->processed;
}

/*
 * check_deferred raises if a row that was applied violates a constraint of the
 * target that PostgreSQL leaves for later.  Whether it has any is looked up once
 * a mapping: rows come by the thousand, and a target may have many partitions.
 */
static void
check_deferred(RehomeMapping *mapping, Tuplestorestate *rows, int64 n)
{
	if (!mapping->looked_deferred)
		mapping->deferred = rehome_has_deferred(mapping->map->target);
	mapping->looked_deferred = true;
	if (!mapping->deferred)
		return;
	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, n);
	rehome_check_deferred(mapping->map->target, mapping);
	rehome_rows_unregister("rehome_rows");
}

/*
 * rehome_apply_rows makes the target hold the rows (of mapped_desc).  After
 * the last of them, rehome_apply_end().
 */
int64
rehome_apply_rows(RehomeMapping *mapping, Tuplestorestate *rows, int64 n)
{
	Tuplestorestate *left;
	int64		nleft;
	int64		touched;

	if (n == 0)
		return 0;
	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, n);
	rehome_check_taken(mapping);
	touched = replace_fragile(mapping);
	left = tuplestore_begin_heap(false, false, work_mem);
	touched += rehome_apply_direct(mapping, rows, n, left, &nleft);
	touched += unmark(mapping);
	if (nleft > 0 && nleft < n)
	{
		rehome_rows_unregister("rehome_rows");
		rehome_rows_register("rehome_rows", mapping->mapped_desc, left, nleft);
	}
	if (nleft > 0)
		touched += upsert(mapping, nleft);
	rehome_rows_unregister("rehome_rows");
	tuplestore_end(left);
	check_deferred(mapping, rows, n);
	return touched;
}

/*
 * rehome_apply_columns makes rows that the target has what the rows on hand
 * (of mapped_desc) say, and adds none.
 */
int64
rehome_apply_columns(RehomeMapping *mapping, Tuplestorestate *rows, int64 n)
{
	int64		touched;

	if (n == 0)
		return 0;
	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, n);
	touched = replace_fragile(mapping);
	touched += update_rows(mapping);
	rehome_rows_unregister("rehome_rows");
	check_deferred(mapping, rows, n);
	return touched;
}

/*
 * rehome_apply_end lets go of what is kept between two calls.
 */
void
rehome_apply_end(RehomeMapping *mapping)
{
	forget_plan(mapping);
}

/*
 * rehome_apply_insert inserts rows that are known to be new.
 */
int64
rehome_apply_insert(RehomeMapping *mapping, Tuplestorestate *rows, int64 n)
{
	int64		touched;

	if (n == 0)
		return 0;
	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, n);
	touched = rehome_spi(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM rehome_rows AS n",
								  rehome_target_name(mapping),
								  rehome_mapped_list(mapping, ""),
								  rehome_mapped_list(mapping, "n.")), "")->processed;
	rehome_rows_unregister("rehome_rows");
	check_deferred(mapping, rows, n);
	return touched;
}
