/*-------------------------------------------------------------------------
 *
 * load.c
 *	  Bulk loading of copied rows into a target table.
 *
 * The fast path serves plain tables without rules, row triggers that would
 * fire or constraints that are checked later: each row is projected to a whole
 * target row, checked against NOT NULL and CHECK constraints, and inserted in
 * batches with a bulk insert state, as COPY does; indexes that were left in
 * place are maintained.  Any other target gets its rows by the executor's
 * INSERT ... SELECT.  A test holds the two against each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/hio.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "apply/apply.h"
#include "commands/progress.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "compat.h"
#include "copy/copy.h"
#include "copy/sieve.h"
#include "copy/stream.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "rewrite/prs2lock.h"
#include "util/result.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Like COPY: a batch is full at this many rows, or bytes. */
#define BATCH_ROWS 1000
#define BATCH_BYTES 65536

struct RehomeLoader
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	BulkInsertState bistate;
	CommandId	cid;
	TupleTableSlot *slots[BATCH_ROWS];
	int			n;
	Size		bytes;
	int64		total;
};

/* Rows on their way to a target that only the executor can write. */
typedef struct StoreTaker
{
	RehomeMapping *mapping;
	Tuplestorestate *rows;
	int64		n;
	MemoryContext context;		/* for the time of one insertion */
} StoreTaker;

/*
 * rehome_load_is_plain tells whether the fast path gives a table what
 * statements would: no rules, and no row or statement trigger for events (of
 * TRIGGER_TYPE_INSERT and so on) that fires in replica role, other than our
 * guard, and no constraint that is checked later.
 */
bool
rehome_load_is_plain(Oid target, int16 events)
{
	Relation	rel = table_open(target, AccessShareLock);
	bool		plain = rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rules == NULL &&
		!rel->rd_rel->relispartition;

	for (int i = 0; plain && rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if ((trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
			 trigger->tgenabled == TRIGGER_FIRES_ON_REPLICA) &&
			(trigger->tgtype & events) != 0 &&
			strcmp(trigger->tgname, "rehome_guard") != 0)
			plain = false;
	}
	table_close(rel, AccessShareLock);
	return plain && !rehome_has_deferred(target);
}

/*
 * rehome_loader_begin prepares to load whole rows into a plain table, in the
 * current memory context.
 */
RehomeLoader *
rehome_loader_begin(Oid target)
{
	RehomeLoader *loader = palloc0(sizeof(RehomeLoader));

	loader->rel = table_open(target, RowExclusiveLock);
	loader->estate = CreateExecutorState();
	loader->rri = rehome_result_relation(loader->estate, loader->rel, NULL);
	loader->bistate = GetBulkInsertState();
	loader->cid = GetCurrentCommandId(true);
	return loader;
}

static void
flush(RehomeLoader *loader)
{
	MemoryContext old;

	if (loader->n == 0)
		return;
	/* insertion leaves behind what it has allocated, and so does one that fails */
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(loader->estate));
	ResetPerTupleExprContext(loader->estate);
	table_multi_insert(loader->rel, loader->slots, loader->n, loader->cid, 0, loader->bistate);
	for (int i = 0; i < loader->n; i++)
	{
		if (loader->rri->ri_NumIndices > 0)
		{
			ResetPerTupleExprContext(loader->estate);
			(void) RehomeInsertIndexTuples(loader->rri, loader->slots[i], loader->estate);
		}
		ExecClearTuple(loader->slots[i]);
	}
	MemoryContextSwitchTo(old);
	loader->total += loader->n;
	pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED, loader->total);
	loader->n = 0;
	loader->bytes = 0;
}

/*
 * rehome_loader_put takes one projected row; a RehomeReceive.
 */
void
rehome_loader_put(TupleTableSlot *row, void *arg)
{
	RehomeLoader *loader = arg;
	TupleTableSlot *slot;
	TupleDesc	desc = RelationGetDescr(loader->rel);

	if (loader->slots[loader->n] == NULL)
		loader->slots[loader->n] = table_slot_create(loader->rel, NULL);
	slot = loader->slots[loader->n];
	ExecCopySlot(slot, row);
	slot->tts_tableOid = RelationGetRelid(loader->rel);
	if (desc->constr != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(loader->estate));

		ResetPerTupleExprContext(loader->estate);
		if (desc->constr->has_generated_stored)
			ExecComputeStoredGenerated(loader->rri, loader->estate, slot, CMD_INSERT);
		ExecConstraints(loader->rri, slot, loader->estate);
		MemoryContextSwitchTo(old);
	}
	ExecMaterializeSlot(slot);
	loader->bytes += slot->tts_ops == &TTSOpsBufferHeapTuple || slot->tts_ops == &TTSOpsHeapTuple ?
		((HeapTupleTableSlot *) slot)->tuple->t_len : 64;
	if (++loader->n == BATCH_ROWS || loader->bytes >= BATCH_BYTES)
		flush(loader);
}

/*
 * rehome_loader_end loads what is left, and lets go of everything.
 */
void
rehome_loader_end(RehomeLoader *loader)
{
	flush(loader);
	FreeBulkInsertState(loader->bistate);
	table_finish_bulk_insert(loader->rel, 0);
	for (int i = 0; i < BATCH_ROWS && loader->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(loader->slots[i]);
	ExecCloseIndices(loader->rri);
	table_close(loader->rel, NoLock);
	FreeExecutorState(loader->estate);
	pfree(loader);
}

/*
 * flush_load ends a set of rows that may be undone: the buffer that is held
 * for the next insertion belongs to the subtransaction.
 */
static void
flush_load(void *arg)
{
	flush(arg);
	ReleaseBulkInsertStatePin(((RehomeLoader *) arg)->bistate);
}

/*
 * reset_load forgets the rows of a set that was undone.  The buffer has been
 * let go with the subtransaction.
 */
static void
reset_load(void *arg)
{
	RehomeLoader *loader = arg;

	for (int i = 0; i < BATCH_ROWS && loader->slots[i] != NULL; i++)
		ExecClearTuple(loader->slots[i]);
	loader->n = 0;
	loader->bytes = 0;
	loader->bistate->current_buf = InvalidBuffer;
	ReleaseBulkInsertStatePin(loader->bistate);
}

/*
 * reset_store forgets the rows of a set that was undone.
 */
static void
reset_store(void *arg)
{
	StoreTaker *store = arg;

	tuplestore_clear(store->rows);
	store->n = 0;
	(void) SPI_unregister_relation("rehome_rows");
	MemoryContextReset(store->context);
}

static void
take_store(TupleTableSlot *row, void *arg)
{
	tuplestore_puttupleslot(((StoreTaker *) arg)->rows, row);
	((StoreTaker *) arg)->n++;
}

static void
flush_store(void *arg)
{
	StoreTaker *store = arg;
	MemoryContext old = MemoryContextSwitchTo(store->context);

	(void) rehome_apply_insert(store->mapping, store->rows, store->n);
	tuplestore_clear(store->rows);
	store->n = 0;
	CommandCounterIncrement();
	MemoryContextSwitchTo(old);
	MemoryContextReset(store->context);
}

/*
 * load_sieved is rehome_load_chunk for a table some rows of which may be
 * refused.
 */
static int64
load_sieved(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
			const char *select, List *columns, int64 *bytes)
{
	bool		plain = rehome_load_is_plain(mapping->map->target, TRIGGER_TYPE_INSERT);
	RehomeLoader *loader = NULL;
	StoreTaker	store = {.mapping = mapping};
	RehomeTaker taker = {rehome_loader_put, flush_load, reset_load, NULL, NULL};
	RehomeApplying applying;
	RehomeProjector *projector;
	RehomeSieve *sieve = rehome_sieve_begin(slice, mapping, &taker, false);
	int64		n;

	rehome_applying_begin(&applying, slice->migration->owner, mapping->map);
	if (plain)
	{
		taker.arg = loader = rehome_loader_begin(mapping->map->target);
		/* slots outlive the subtransactions in which they are filled */
		for (int i = 0; i < BATCH_ROWS; i++)
			loader->slots[i] = table_slot_create(loader->rel, NULL);
		projector = rehome_projector_full(mapping, loader->rel);
	}
	else
	{
		store.rows = tuplestore_begin_heap(false, false, work_mem);
		store.context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome rows inserted", ALLOCSET_DEFAULT_SIZES);
		taker = (RehomeTaker) {take_store, flush_store, reset_store, NULL, &store};
		projector = rehome_projector_mapped(mapping);
	}
	n = rehome_sieve_stream(conn, select, mapping, columns, projector, bytes);
	rehome_projector_end(projector);
	if (plain)
		rehome_loader_end(loader);
	else
	{
		flush_store(&store);
		tuplestore_end(store.rows);
		MemoryContextDelete(store.context);
	}
	rehome_applying_end(&applying);
	rehome_sieve_end(sieve);
	return n;
}

/*
 * rehome_load_chunk loads what select gives at the source.  Returns the rows;
 * *bytes is the size of the stream.
 */
int64
rehome_load_chunk(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
				  const char *select, List *columns, int64 *bytes)
{
	RehomeApplying applying;
	RehomeProjector *projector;
	int64		n;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (mapping->tolerant)
	{
		n = load_sieved(conn, slice, mapping, select, columns, bytes);
		PopActiveSnapshot();
		CommandCounterIncrement();
		return n;
	}
	rehome_applying_begin(&applying, slice->migration->owner, mapping->map);
	if (rehome_load_is_plain(mapping->map->target, TRIGGER_TYPE_INSERT))
	{
		RehomeLoader *loader = rehome_loader_begin(mapping->map->target);

		projector = rehome_projector_full(mapping, loader->rel);
		n = rehome_stream(conn, select, mapping, columns, projector, rehome_loader_put, loader, bytes);
		rehome_projector_end(projector);
		rehome_loader_end(loader);
	}
	else
	{
		Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);

		projector = rehome_projector_mapped(mapping);
		n = rehome_stream(conn, select, mapping, columns, projector, rehome_receive_store, rows, bytes);
		rehome_projector_end(projector);
		(void) rehome_apply_insert(mapping, rows, n);
		tuplestore_end(rows);
	}
	rehome_applying_end(&applying);
	PopActiveSnapshot();
	CommandCounterIncrement();
	return n;
}

/*
 * rehome_load_local loads a table from any relation this server can read, in
 * one INSERT ... SELECT.  Returns the rows.
 */
int64
rehome_load_local(RehomeSlice *slice, RehomeMapping *mapping)
{
	RehomeApplying applying;
	StringInfoData sql;
	int64		n;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT ",
					 rehome_target_name(mapping), rehome_mapped_list(mapping, ""));
	for (int i = 0; i < mapping->ncolumns; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "", mapping->columns[i].expression);
	appendStringInfo(&sql, " FROM %s AS source",
					 rehome_spi_value("SELECT $1::regclass::text", "o", mapping->map->source));
	if (mapping->map->filter != NULL)
		appendStringInfo(&sql, " WHERE (%s)", mapping->map->filter);
	rehome_applying_begin(&applying, slice->migration->owner, mapping->map);
	n = (int64) rehome_spi(sql.data, "")->processed;
	rehome_check_deferred(mapping->map->target, NULL);
	rehome_applying_end(&applying);
	return n;
}
