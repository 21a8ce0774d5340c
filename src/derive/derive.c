/*-------------------------------------------------------------------------
 *
 * derive.c
 *	  Deriving: making a table, or columns of one, what a query over other
 *	  tables of the target says.
 *
 * A migration moves each source table into one target table, row by row, and
 * knows at every batch which rows changed.  What is made of several rows (a
 * merged customer, a best-seller list, a reference that follows a merge) is
 * derived from what has been moved, here, in the same transaction: the target
 * is at each position a function of the source's state, derived tables
 * included.  Nothing is read from the source for it.
 *
 * Triggers on the inputs (install.c) note in rehome.derivation_pending which
 * keys a change touches; null stands for all.  A batch ends by deriving what
 * is pending: the notes are taken away, the query is run for their keys, and
 * the target's rows are made its rows (apply.c).  Derivations go in the order
 * in which they read each other's targets, so that the changes of one are
 * noted for the next.  The notes are deleted before the query looks, and with
 * a later snapshot: what is committed in between is derived now, and once more
 * the next time.
 *
 * A derivation that has an input of which nobody said which keys a change
 * touches is derived as a whole, and therefore not in each batch: after the
 * copy, when asked to, and by the cutover, while writers wait if its inputs
 * have changed since.
 *
 * A derivation that fails does not stop the batch.  It fails in a
 * subtransaction, so its notes stay; the error is on record, the cutover is
 * refused, and it is tried again every now and then.
 *
 * The work lock of the slice is held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "catalog/pg_type.h"
#include "catalog/redaction.h"
#include "derive/derive.h"
#include "errors.h"
#include "executor/executor.h"
#include "guc.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "remote/query.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/sink.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* With more keys than this it is cheaper to derive everything. */
#define DERIVE_KEYS 10000

/* Rows fetched from a query at once. */
/* A derivation that failed is tried again after this time. */
#define RETRY_INTERVAL "30 seconds"

/*
 * reads_target_of tells whether a reads what b makes.  Of two that make
 * columns of one table, the one that was stated first goes first; if it should
 * have been the other, settle() sees to it.
 */
static bool
reads_target_of(RehomeDerivation *a, RehomeDerivation *b)
{
	return a != b && a->target != b->target && list_member_oid(a->inputs, b->target);
}

/*
 * in_order sorts derivations so that each comes after those whose targets it
 * reads; raises when they read each other's in a circle.
 */
static List *
in_order(List *derivations)
{
	List	   *ordered = NIL;
	List	   *left = list_copy(derivations);

	while (left != NIL)
	{
		RehomeDerivation *next = NULL;
		ListCell   *lc;
		ListCell   *lc2;

		foreach(lc, left)
		{
			bool		ready = true;

			foreach(lc2, left)
				ready = ready && !reads_target_of(lfirst(lc), lfirst(lc2));
			if (ready)
			{
				next = lfirst(lc);
				break;
			}
		}
		if (next == NULL)
			ereport(ERROR,
					errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					errmsg("derived tables are derived from each other in a circle"),
					/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the list has none */
					errdetail("\"%s\" is one of them.", ((RehomeDerivation *) linitial(left))->name));
		ordered = lappend(ordered, next);
		left = list_delete_ptr(left, next);
	}
	return ordered;
}

/*
 * rehome_derivations_get returns the derivations of a slice, in the order in
 * which they have to be derived.
 */
List *
rehome_derivations_get(RehomeSlice *slice)
{
	RehomeRows *rows;
	List	   *derivations = NIL;

	rows = rehome_spi("SELECT d.id, d.name, d.target::oid, d.whole, d.key, d.columns, d.query, d.search_path, d.write_back,"
					  " d.derived_at IS NOT NULL, i.by_key, i.inputs"
					  " FROM rehome.derivation d LEFT JOIN LATERAL"
					  "  (SELECT bool_and(i.affected IS NOT NULL) AS by_key, array_agg(i.input::oid) AS inputs"
					  "     FROM rehome.derivation_input i WHERE i.derivation_id = d.id) AS i ON true"
					  " WHERE d.slice_id = $1 ORDER BY d.id", "i", slice->id);
	for (int r = 0; r < rows->n; r++)
	{
		RehomeDerivation *d = palloc0(sizeof(RehomeDerivation));
		char	  **v = rows->value[r];
		ListCell   *lc;

		d->id = rehome_int(v[0]);
		d->name = v[1];
		d->target = (Oid) rehome_int64(v[2]);
		d->whole = rehome_bool(v[3]);
		d->key = rehome_name_list(v[4]);
		d->columns = rehome_name_list(v[5]);
		d->query = v[6];
		d->stated.owner = slice->migration->owner;
		d->stated.search_path = v[7];
		d->write_back = v[8];
		d->derived = rehome_bool(v[9]);
		d->by_key = v[10] != NULL && rehome_bool(v[10]);
		foreach(lc, v[11] ? rehome_name_list(v[11]) : NIL)
			d->inputs = lappend_oid(d->inputs, (Oid) rehome_int64(lfirst(lc)));
		derivations = lappend(derivations, d);
	}
	return in_order(derivations);
}

/*
 * rehome_derivation_mapping returns the derivation as a table map: the columns
 * of the target that it gives, the key first.  Nothing of it is evaluated.
 */
RehomeMapping *
rehome_derivation_mapping(RehomeDerivation *derivation)
{
	RehomeMapping *mapping = palloc0(sizeof(RehomeMapping));
	RehomeTableMap *map = palloc0(sizeof(RehomeTableMap));
	List	   *names = list_concat_copy(derivation->key, derivation->columns);
	ListCell   *lc;

	map->target = derivation->target;
	map->key = derivation->key;
	map->on_delete = 'd';
	mapping->map = map;
	mapping->nkey = list_length(derivation->key);
	mapping->key = palloc(sizeof(RehomeMappedColumn *) * mapping->nkey);
	mapping->columns = palloc0(sizeof(RehomeMappedColumn) * list_length(names));
	mapping->mapped_desc = CreateTemplateTupleDesc(list_length(names));
	mapping->key_desc = CreateTemplateTupleDesc(mapping->nkey);
	foreach(lc, names)
	{
		int			i = mapping->ncolumns++;
		RehomeMappedColumn *column = &mapping->columns[i];
		HeapTuple	tuple = SearchSysCacheAttName(derivation->target, lfirst(lc));
		Form_pg_attribute att;

		if (!HeapTupleIsValid(tuple))
			ereport(ERROR,
					errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("column \"%s\" of %s does not exist any more", (char *) lfirst(lc),
						   rehome_relation_name(derivation->target)));
		att = (Form_pg_attribute) GETSTRUCT(tuple);
		column->name = lfirst(lc);
		column->attnum = att->attnum;
		column->type = att->atttypid;
		column->typmod = att->atttypmod;
		column->collation = att->attcollation;
		column->identity_always = att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		ReleaseSysCache(tuple);
		TupleDescInitEntry(mapping->mapped_desc, i + 1, column->name, column->type, column->typmod, 0);
		TupleDescInitEntryCollation(mapping->mapped_desc, i + 1, column->collation);
		if (i >= mapping->nkey)
			continue;
		column->key = i + 1;
		column->equal = rehome_equality_operator(derivation->target, column->attnum);
		mapping->key[i] = column;
		TupleDescCopyEntry(mapping->key_desc, i + 1, mapping->mapped_desc, i + 1);
	}
	return mapping;
}

/*
 * rehome_derivation_type returns the type, as SQL, of values for a column of
 * some type: strings have no length yet, since a cast would cut them.
 */
char *
rehome_derivation_type(Oid type, int32 typmod)
{
	int32		base_typmod = typmod;
	Oid			base = getBaseTypeAndTypmod(type, &base_typmod);
	Oid			element = get_element_type(base);

	if (OidIsValid(element))
		element = getBaseType(element);
	switch (OidIsValid(element) ? element : base)
	{
		case VARCHAROID:
		case BPCHAROID:
		case BITOID:
		case VARBITOID:
			return format_type_with_typemod(OidIsValid(element) ? get_array_type(element) : base, -1);
		default:
			return format_type_with_typemod(type, typmod);
	}
}

/*
 * rehome_derivation_sql returns the SQL that gives the rows of the target, to
 * be assigned to mapped_desc: all, or those of the keys in relation rehome_keys.
 * Names of the query are looked up in the path it was stated with.
 */
char *
rehome_derivation_sql(RehomeDerivation *derivation, RehomeMapping *mapping, bool by_key)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < mapping->ncolumns; i++)
		appendStringInfo(&sql, "%sq.%s::%s", i > 0 ? ", " : "", quote_identifier(mapping->columns[i].name),
						 rehome_derivation_type(mapping->columns[i].type, mapping->columns[i].typmod));
	if (by_key)
		/* a lateral subquery takes the keys into the query, where indexes serve them */
		appendStringInfo(&sql, " FROM rehome_keys AS k CROSS JOIN LATERAL (SELECT * FROM (%s\n) AS q WHERE %s OFFSET 0) AS q",
						 derivation->query, rehome_key_condition(mapping, "q", "k"));
	else
		appendStringInfo(&sql, " FROM (%s\n) AS q", derivation->query);
	return sql.data;
}

/* What makes rows of a query rows of a table. */
typedef struct Assignment
{
	EState	   *estate;
	TupleTableSlot *from;
	TupleTableSlot *to;
	ProjectionInfo *projection;
} Assignment;

/*
 * begin_assignment prepares for rows of one shape to be assigned to columns of
 * another, as INSERT would do: what is too long for its column is an error.
 */
static void
begin_assignment(Assignment *assignment, TupleDesc from, TupleDesc to)
{
	List	   *targetlist = NIL;

	for (int i = 0; i < to->natts; i++)
	{
		Form_pg_attribute source = TupleDescAttr(from, i);
		Form_pg_attribute target = TupleDescAttr(to, i);
		Node	   *value = (Node *) makeVar(1, i + 1, source->atttypid, source->atttypmod, source->attcollation, 0);

		value = rehome_expression_assign(value, target->atttypid, target->atttypmod);
		if (value == NULL)
			elog(ERROR, "column \"%s\" cannot be assigned", NameStr(target->attname));
		targetlist = lappend(targetlist, makeTargetEntry((Expr *) value, i + 1, NULL, false));
	}
	assignment->estate = CreateExecutorState();
	assignment->from = MakeSingleTupleTableSlot(from, &TTSOpsHeapTuple);
	assignment->to = MakeSingleTupleTableSlot(to, &TTSOpsVirtual);
	GetPerTupleExprContext(assignment->estate)->ecxt_scantuple = assignment->from;
	assignment->projection = ExecBuildProjectionInfo(targetlist, GetPerTupleExprContext(assignment->estate),
													 assignment->to, NULL, from);
}

static void
end_assignment(Assignment *assignment)
{
	ExecDropSingleTupleTableSlot(assignment->from);
	ExecDropSingleTupleTableSlot(assignment->to);
	FreeExecutorState(assignment->estate);
}

/*
 * store_assigned stores what a query returns, assigned to columns as desc has
 * them.  Returns the number of rows.
 */
static int64
store_assigned(const char *sql, TupleDesc desc, Tuplestorestate *store)
{
	Assignment	assignment = {NULL};
	Portal		cursor = rehome_cursor_open(sql);
	SPITupleTable *table;
	int64		n = 0;

	while ((table = rehome_cursor_fetch(cursor, REHOME_FETCH_ROWS)) != NULL)
	{
		if (assignment.estate == NULL)
			begin_assignment(&assignment, CreateTupleDescCopy(table->tupdesc), desc);
		for (uint64 i = 0; i < table->numvals; i++)
		{
			ExecForceStoreHeapTuple(table->vals[i], assignment.from, false);
			tuplestore_puttupleslot(store, ExecProject(assignment.projection));
			ResetPerTupleExprContext(assignment.estate);
		}
		n += table->numvals;
		SPI_freetuptable(table);
		CHECK_FOR_INTERRUPTS();
	}
	if (assignment.estate != NULL)
		end_assignment(&assignment);
	SPI_cursor_close(cursor);
	return n;
}

/*
 * rehome_store_query runs a stated query under the active snapshot and puts
 * its rows into a tuplestore, assigned to columns as desc has them, or as they
 * are when that is NULL.  Returns how many.
 */
int64
rehome_store_query(const RehomeStated *stated, const char *sql, TupleDesc desc, Tuplestorestate *store)
{
	int			level = rehome_stated_enter(stated);
	RehomeAs	as;
	int64		n;

	rehome_become(&as, stated->owner);
	n = desc == NULL ? rehome_rows_read(sql, store, NULL) : store_assigned(sql, desc, store);
	rehome_become_self(&as);
	rehome_stated_leave(level);
	return n;
}

/* One derivation at work. */
typedef struct Derive
{
	RehomeSlice *slice;
	RehomeDerivation *derivation;
	bool		everything;
	int64		touched;
} Derive;

/*
 * take_keys takes the notes of a derivation away; unless everything is to be
 * derived, as a note may say that has just come, their keys are put into the
 * store.  Returns how many.  A key that was noted in several spellings is one.
 * A note that all is to be derived stays while somebody relies on it.
 */
static int64
take_keys(Derive *work, RehomeMapping *mapping, Tuplestorestate *store)
{
	RehomeStated stated = {work->derivation->stated.owner, "pg_catalog, pg_temp"};
	StringInfoData sql;
	bool		missed = rehome_notes_missed(work->derivation->id);
	RehomeRows *gone;

	/* marks that come in between stay */
	gone = rehome_spi("WITH gone AS (DELETE FROM rehome.derivation_pending WHERE derivation_id = $1 AND writer IS NULL AND (key IS NOT NULL"
					  "  OR id IN (SELECT id FROM rehome.derivation_pending WHERE derivation_id = $1 AND key IS NULL FOR UPDATE SKIP LOCKED)) RETURNING key)"
					  " SELECT coalesce(jsonb_agg(DISTINCT key) FILTER (WHERE NOT $2), '[]'), coalesce(bool_or(key IS NULL), false) FROM gone",
					  "ib", work->derivation->id, work->everything || missed);
	work->everything = work->everything || missed || rehome_bool(gone->value[0][1]);
	if (work->everything)
		return 0;
	initStringInfo(&sql);
	for (int k = 0; k < mapping->nkey; k++)
	{
		RehomeMappedColumn *column = mapping->key[k];

		appendStringInfo(&sql, "%s(k->>%d)::%s", k > 0 ? ", " : "SELECT DISTINCT ", k,
						 rehome_derivation_type(column->type, column->typmod));
		if (OidIsValid(column->collation))
			appendStringInfo(&sql, " COLLATE %s", generate_collation_name(column->collation));
	}
	appendStringInfo(&sql, " FROM jsonb_array_elements(%s) AS k", quote_literal_cstr(gone->value[0][0]));
	return rehome_store_query(&stated, sql.data, NULL, store);
}

/*
 * require_one_each raises when there are several rows with a key on hand: which
 * of them the target had in the end would be up to chance.
 */
static void
require_one_each(RehomeMapping *mapping, int64 n)
{
	char	   *key = rehome_quote_list(mapping->map->key, "n.");
	RehomeRows *rows;

	if (n < 2)
		return;
	rows = rehome_spi(psprintf("SELECT ROW(%s)::text FROM rehome_rows AS n WHERE ROW(%s) IS NOT NULL"
							   " GROUP BY %s HAVING count(*) > 1 LIMIT 1", key, key, key), "");
	if (rows->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_CARDINALITY_VIOLATION),
				errmsg("the query gives several rows with the key %s", rows->value[0][0]));
}

/*
 * make_rows makes the rows of the target those on hand: of the keys on hand,
 * or all there are.  Both are registered.
 */
static int64
make_rows(Derive *work, RehomeMapping *mapping, Tuplestorestate *rows, int64 n)
{
	int64		touched;

	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, n);
	require_one_each(mapping, n);
	touched = (int64) rehome_spi(psprintf("DELETE FROM %s AS t%s WHERE %s%sNOT EXISTS (SELECT FROM rehome_rows AS n WHERE %s)",
										  rehome_target_name(mapping), work->everything ? "" : " USING rehome_keys AS k",
										  work->everything ? "" : rehome_key_condition(mapping, "t", "k"),
										  work->everything ? "" : " AND ",
										  rehome_key_condition(mapping, "t", "n")), "")->processed;
	rehome_rows_unregister("rehome_rows");
	touched += rehome_apply_rows(mapping, rows, n);
	rehome_apply_end(mapping);
	return touched;
}

/*
 * changed_rows puts rows of the target that are to change into a store, with
 * the columns they are to have.  Returns how many.
 */
static int64
changed_rows(Derive *work, RehomeMapping *mapping, Tuplestorestate *store)
{
	RehomeStated stated = {work->slice->migration->owner, "pg_catalog, pg_temp"};
	List	   *columns = work->derivation->columns;
	char	   *target = rehome_target_name(mapping);
	char	   *from = work->everything ? psprintf("%s AS t", target) :
		psprintf("rehome_keys AS k JOIN %s AS t ON %s", target, rehome_key_condition(mapping, "t", "k"));
	int64		n;

	PushActiveSnapshot(GetLatestSnapshot());
	n = rehome_store_query(&stated, psprintf("SELECT %s, %s FROM %s LEFT JOIN rehome_rows AS n ON %s"
											 " WHERE ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record",
											 rehome_quote_list(work->derivation->key, "t."), rehome_quote_list(columns, "n."),
											 from, rehome_key_condition(mapping, "t", "n"),
											 rehome_quote_list(columns, "t."), rehome_quote_list(columns, "n.")),
						   mapping->mapped_desc, store);
	PopActiveSnapshot();
	return n;
}

/*
 * make_columns does the same with columns of rows that are there; where the
 * query gives nothing, they are null.  One UPDATE does it, unless rows may
 * exchange values that no two may have, or a constraint is checked later.
 */
static int64
make_columns(Derive *work, RehomeMapping *mapping, Tuplestorestate *rows, int64 n)
{
	List	   *columns = work->derivation->columns;
	char	   *target = rehome_target_name(mapping);
	Tuplestorestate *changed = NULL;
	int64		touched;

	rehome_rows_register("rehome_rows", mapping->mapped_desc, rows, n);
	require_one_each(mapping, n);
	if (rehome_apply_is_fragile(mapping) || rehome_has_deferred(mapping->map->target))
	{
		changed = tuplestore_begin_heap(false, false, work_mem);
		touched = changed_rows(work, mapping, changed);
	}
	else
		touched = (int64) rehome_spi(psprintf("UPDATE %s AS t SET (%s) = ROW(%s) FROM %s AS k LEFT JOIN rehome_rows AS n ON %s"
											  " WHERE %s AND ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record",
											  target, rehome_quote_list(columns, ""), rehome_quote_list(columns, "n."),
											  work->everything ? target : "rehome_keys",
											  rehome_key_condition(mapping, "k", "n"),
											  rehome_key_condition(mapping, "t", "k"),
											  rehome_quote_list(columns, "t."), rehome_quote_list(columns, "n.")), "")->processed;
	rehome_rows_unregister("rehome_rows");
	if (changed == NULL)
		return touched;
	touched = rehome_apply_columns(mapping, changed, touched);
	tuplestore_end(changed);
	return touched;
}

/*
 * derive_one derives, by the notes there are or as a whole.  A table that is
 * locked is not waited for long: the batch has others in hand, and a transaction
 * open at the source.
 */
static void
derive_one(void *arg)
{
	Derive	   *work = arg;
	int			level = NewGUCNestLevel();
	RehomeMapping *mapping;
	Tuplestorestate *keys = tuplestore_begin_heap(false, false, work_mem);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	RehomeApplying applying;
	int64		nkeys;
	int64		n;

	rehome_limit_lock_waits(rehome_lock_timeout);
	mapping = rehome_derivation_mapping(work->derivation);
	nkeys = take_keys(work, mapping, keys);
	if (!work->everything)
		rehome_rows_register("rehome_keys", mapping->key_desc, keys, nkeys);
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	n = rehome_store_query(&work->derivation->stated,
						   rehome_derivation_sql(work->derivation, mapping, !work->everything), mapping->mapped_desc, rows);
	PopActiveSnapshot();
	rehome_applying_begin(&applying, work->slice->migration->owner, mapping->map);
	if (work->derivation->whole)
		work->touched = make_rows(work, mapping, rows, n);
	else
		work->touched = make_columns(work, mapping, rows, n);
	rehome_applying_end(&applying);
	if (!work->everything)
		rehome_rows_unregister("rehome_keys");
	tuplestore_end(keys);
	tuplestore_end(rows);
	CommandCounterIncrement();
	AtEOXact_GUC(true, level);
}

/*
 * failed keeps the error, and says so once.
 */
static void
failed(Derive *work, ErrorData *error)
{
	RehomeMigration *migration = work->slice->migration;
	RehomeRows *before;
	char	   *message = rehome_recorded_message(migration, error->sqlerrcode, error->message);

	(void) SPI_unregister_relation("rehome_keys");
	(void) SPI_unregister_relation("rehome_rows");
	before = rehome_spi("SELECT d.error IS NOT DISTINCT FROM $2 FROM rehome.derivation d WHERE d.id = $1", "it",
						work->derivation->id, message);
	rehome_spi("UPDATE rehome.derivation SET error = $2, error_since = coalesce(error_since, clock_timestamp()),"
			   " tried_at = clock_timestamp() WHERE id = $1", "it", work->derivation->id, message);
	if (rehome_bool(before->value[0][0]))
		return;
	rehome_event(migration->name, work->slice->name, "derive_failed",
				 psprintf("%s: %s", work->derivation->name, message), NULL);
	ereport(WARNING,
			errcode(error->sqlerrcode),
			errmsg("could not derive \"%s\": %s", work->derivation->name, error->message),
			error->detail ? errdetail_internal("%s", error->detail) : 0,
			errhint("Its target stays as it is until it can be derived; a cutover is refused as long."));
}

/*
 * derive does one derivation.  Returns NULL, or the error, which is on record.
 */
static ErrorData *
derive(Derive *work)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome derivation",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *error;

	rehome_deriving = work->derivation->id;
	error = rehome_attempt(derive_one, work);
	rehome_deriving = 0;
	MemoryContextSwitchTo(old);
	if (error != NULL)
	{
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		failed(work, error);
		return error;
	}
	MemoryContextDelete(context);
	rehome_spi("UPDATE rehome.derivation SET written = pg_current_xact_id(), derived_at = clock_timestamp(), elapsed = clock_timestamp() - $2::timestamptz,"
			   " rows = $3, error = NULL, error_since = NULL, tried_at = NULL WHERE id = $1", "itl",
			   work->derivation->id, timestamptz_to_str(began), work->touched);
	if (!work->derivation->derived)
		rehome_event(work->slice->migration->name, work->slice->name, "derived",
					 psprintf("%s derived, " INT64_FORMAT " rows", work->derivation->name, work->touched), NULL);
	work->derivation->derived = true;
	return NULL;
}

/*
 * is_due tells whether there is anything to derive, and whether as a whole.
 */
static bool
is_due(RehomeDerivation *derivation, bool all, bool *everything)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT (SELECT count(*) FROM (SELECT FROM rehome.derivation_pending WHERE derivation_id = $1 LIMIT $2) AS p),"
					  " EXISTS (SELECT FROM rehome.derivation_pending WHERE derivation_id = $1 AND key IS NULL),"
					  " (SELECT d.tried_at > clock_timestamp() - interval '" RETRY_INTERVAL "' FROM rehome.derivation d WHERE d.id = $1)",
					  "ii", derivation->id, DERIVE_KEYS + 1);
	if (rehome_int64(rows->value[0][0]) == 0)
		return false;
	*everything = rehome_bool(rows->value[0][1]) || rehome_int64(rows->value[0][0]) > DERIVE_KEYS;
	if (all)
		return true;
	if (rows->value[0][2] != NULL && rehome_bool(rows->value[0][2]))
		return false;
	return derivation->by_key || !derivation->derived;
}

/*
 * settle derives what is due, but for failures, until nothing is: of two that
 * make columns of one table, the first may read what the second makes.  Those
 * that are made of each other may never come to rest, and keep their notes.
 */
static void
settle(RehomeSlice *slice, List *derivations, List *failures, bool all)
{
	bool		more = true;
	ListCell   *lc;

	for (int round = 0; more && round < list_length(derivations); round++)
	{
		more = false;
		foreach(lc, derivations)
		{
			Derive		work = {slice, lfirst(lc)};

			if (list_member_ptr(failures, work.derivation) || !is_due(work.derivation, all, &work.everything))
				continue;
			if (derive(&work) != NULL)
				failures = lappend(failures, work.derivation);
			more = true;
		}
	}
}

/*
 * rehome_derive derives what is pending; with all, also what is derived as a
 * whole, and what has failed just now.
 */
void
rehome_derive(RehomeSlice *slice, bool all)
{
	if (rehome_spi("SELECT FROM rehome.derivation d WHERE d.slice_id = $1"
				   " AND EXISTS (SELECT FROM rehome.derivation_pending p WHERE p.derivation_id = d.id) LIMIT 1",
				   "i", slice->id)->n == 0)
		return;
	settle(slice, rehome_derivations_get(slice), NIL, all);
}

/*
 * rehome_derive_again has all derivations of a slice derived as a whole by the
 * next batch: while the target had authority nobody kept them.
 */
void
rehome_derive_again(RehomeSlice *slice)
{
	rehome_spi("INSERT INTO rehome.derivation_pending (derivation_id) SELECT id FROM rehome.derivation WHERE slice_id = $1",
			   "i", slice->id);
}

/*
 * rehome_derive_gates adds derivations that failed, that were never made, or
 * that a table is missing for.  While nobody else can write to what they read,
 * those that have just been derived and are stale are wrong as well.
 */
void
rehome_derive_gates(RehomeSlice *slice, bool frozen, RehomeProblems *problems)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT d.name, d.target, coalesce(d.error, CASE WHEN x.dropped THEN 'a table of it was dropped'"
					  "  WHEN d.derived_at IS NULL THEN 'it has not been derived yet'"
					  "  ELSE 'what it is made of changes whenever it is derived' END)"
					  " FROM rehome.derivation d CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM"
					  "  (SELECT d.target::oid UNION ALL SELECT i.input::oid FROM rehome.derivation_input i WHERE i.derivation_id = d.id) AS r(oid)"
					  "  WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.oid)) AS dropped) AS x"
					  " WHERE d.slice_id = $1 AND (d.error IS NOT NULL OR d.derived_at IS NULL OR x.dropped"
					  "  OR ($2 AND EXISTS (SELECT FROM rehome.derivation_pending p WHERE p.derivation_id = d.id))) ORDER BY d.id",
					  "ib", slice->id, frozen);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_REHOME_GATE,
					   psprintf("SELECT * FROM rehome.refresh_derived(%s);", quote_literal_cstr(slice->migration->name)),
					   "Derived data \"%s\" (%s) is not up to date: %s.", rows->value[i][0], rows->value[i][1], rows->value[i][2]);
}

PG_FUNCTION_INFO_V1(rehome_refresh_derived);

/*
 * rehome_refresh_derived(migration name, name name): as a whole, whether or
 * not it is stale; errors are in the result.
 */
Datum
rehome_refresh_derived(PG_FUNCTION_ARGS)
{
	RehomeSink	sink;
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *name = REHOME_ARG_NAME(1);
	bool		found = false;
	ListCell   *lc;
	ListCell   *lc2;

	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	foreach(lc, name != NULL ? rehome_slices_get(migration, NULL) : rehome_slices_named(migration, NULL))
	{
		RehomeSlice *slice = lfirst(lc);
		List	   *derivations;
		List	   *failures = NIL;

		if (rehome_spi("SELECT FROM rehome.derivation WHERE slice_id = $1 AND name = coalesce($2::name, name)",
					   "it", slice->id, name)->n == 0)
			continue;
		found = true;
		rehome_slice_work_lock(slice);
		rehome_slice_require(slice, "derive data of", REHOME_SYNCING, REHOME_SYNCING);
		derivations = rehome_derivations_get(slice);
		foreach(lc2, derivations)
		{
			Derive		work = {slice, lfirst(lc2), true};
			ErrorData  *error;
			char	   *values[4];

			if (name != NULL && strcmp(work.derivation->name, name) != 0)
				continue;
			error = derive(&work);
			if (error != NULL)
				failures = lappend(failures, work.derivation);
			values[0] = work.derivation->name;
			values[1] = error ? NULL : psprintf(INT64_FORMAT, work.touched);
			values[2] = rehome_spi_value("SELECT elapsed FROM rehome.derivation WHERE id = $1", "i", work.derivation->id);
			values[3] = error ? error->message : NULL;
			rehome_sink_put(&sink, values);
		}
		if (name == NULL)
			settle(slice, derivations, failures, true);
	}
	if (name != NULL && !found)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("derived data \"%s\" of migration \"%s\" does not exist", name, migration->name),
				errhint("SELECT * FROM rehome.derived;"));
	rehome_call_end(&call);
	return (Datum) 0;
}
