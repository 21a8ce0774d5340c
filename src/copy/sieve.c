/*-------------------------------------------------------------------------
 *
 * sieve.c
 *	  Rows that are refused, and what becomes of them.
 *
 * Only for tables with an error policy other than fail: the others go the way
 * of stream.c, which knows nothing of this.
 *
 * Rows are read in batches.  A batch is projected in one subtransaction, not
 * one a row; it is free of effects, so when a row raises, the rows before it
 * stand, that row is looked at column by column, and a new subtransaction
 * takes the rest.  So a bad row costs a subtransaction or two, and a good one
 * nothing.
 *
 * What a constraint refuses shows only when the row is written.  For tables
 * whose policy is quarantine, a batch is written in a subtransaction; if it
 * raises, by halves, down to the rows that are to blame.  Their old versions
 * are taken out of the target, and they are tried once more, since two of
 * them may have exchanged unique values.  What is still refused goes to
 * rehome.quarantine, in the transaction that moves the others.
 *
 * A row that is written, or is gone at the source, leaves the quarantine in
 * the same transaction.  The keys that are in it are few, and kept in a hash
 * table.
 *
 * The caller is the migration's owner; the quarantine is written as the
 * extension's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "catalog/redaction.h"
#include "copy/known.h"
#include "copy/reader.h"
#include "copy/sieve.h"
#include "errors.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "util/attempt.h"
#include "util/row_json.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* A batch is full at this many rows, or bytes of memory. */
#define BATCH_ROWS 1000
#define BATCH_BYTES (4 * 1024 * 1024)

/* More than this is not stored by one statement, which jsonb takes no more than 256 MB of. */
#define STORE_BYTES (8 * 1024 * 1024)

/* A message may quote a value as a whole. */
#define MESSAGE_BYTES (1024 * 1024)

typedef struct Batch
{
	RehomeSieve *sieve;
	RehomeProjector *projector;
	int			n;
	Datum	   *source;			/* n rows of the source */
	bool	   *source_null;
	Datum	   *result;			/* n projected rows */
	bool	   *result_null;
	bool	   *good;
	bool	   *blamed;			/* refused when it was written */
	ErrorData **error;
	int			source_natts;
	int			result_natts;
	int			at;				/* row being worked on */
	int			lo;				/* rows being written */
	int			hi;
	StringInfoData refused;		/* what goes to quarantine, as a JSON array; in per-tuple memory */
} Batch;

/*
 * rehome_refusable tells whether an error is about the row at hand: bad data,
 * a constraint, a rule, an exception a rule's function raised, a row too
 * large for an index, or nested too deeply, or a NaN that is to be an integer,
 * which the server counts among features it has not.
 */
bool
rehome_refusable(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
		sqlerrcode == ERRCODE_REHOME_REFUSED || sqlerrcode == ERRCODE_RAISE_EXCEPTION ||
		sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED || sqlerrcode == ERRCODE_STATEMENT_TOO_COMPLEX ||
		sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED;
}

/*
 * rehome_sieve_begin prepares for rows that may be refused.  taker is NULL
 * with look_only.  The caller is the extension's owner.
 */
RehomeSieve *
rehome_sieve_begin(RehomeSlice *slice, RehomeMapping *mapping, RehomeTaker *taker, bool look_only)
{
	RehomeSieve *sieve = palloc0(sizeof(RehomeSieve));
	List	   *redacted = rehome_redacted_columns(mapping->map->target);

	sieve->slice = slice;
	sieve->mapping = mapping;
	sieve->taker = taker;
	sieve->look_only = look_only;
	if (redacted != NIL)
		sieve->redacted = rehome_name_array(rehome_mapping_reads(mapping, redacted));
	sieve->known = rehome_known_load(sieve);
	sieve->key = rehome_projector_key(mapping);
	sieve->scratch = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome sieve", ALLOCSET_SMALL_SIZES);
	mapping->sieve = sieve;
	return sieve;
}

void
rehome_sieve_end(RehomeSieve *sieve)
{
	sieve->mapping->sieve = NULL;
	rehome_projector_end(sieve->key);
	hash_destroy(sieve->known);
	MemoryContextDelete(sieve->scratch);
	pfree(sieve);
}

/*
 * rehome_sieve_gone takes a row that the source no longer has, of which there is
 * but the key, out of quarantine.  One whose key is null is left to the caller.
 */
void
rehome_sieve_gone(RehomeSieve *sieve, TupleTableSlot *source)
{
	RehomeKnown *entry;

	if (rehome_known_nameless(sieve, source->tts_values, source->tts_isnull))
	{
		sieve->nameless_gone = true;
		return;
	}
	entry = rehome_known_find(sieve, source->tts_values, source->tts_isnull);
	if (entry != NULL && !sieve->look_only)
		rehome_known_release(sieve, entry);
}

static void
project_key(void *arg)
{
	(void) rehome_project(((RehomeSieve *) arg)->key);
}

/*
 * target_key projects the target's key of a source row into sieve->key's
 * result; false when it cannot be computed.
 */
static bool
target_key(RehomeSieve *sieve, Datum *values, bool *nulls)
{
	TupleTableSlot *slot = sieve->key->source;
	ErrorData  *error;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, sizeof(Datum) * slot->tts_tupleDescriptor->natts);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	ExecStoreVirtualTuple(slot);
	ResetPerTupleExprContext(sieve->key->estate);
	error = rehome_attempt_in(project_key, sieve, sieve->scratch);
	if (error != NULL && !rehome_refusable(error->sqlerrcode))
		ReThrowError(error);
	return error == NULL;
}

/*
 * remove_old takes the target's version of a refused row away.
 */
static void
remove_old(RehomeSieve *sieve, Datum *values, bool *nulls)
{
	if (sieve->taker->remove != NULL && target_key(sieve, values, nulls))
		sieve->taker->remove(sieve->key->result, sieve->taker->arg);
}

/*
 * append_member appends a member of a JSON object: text, or JSON as it is.
 */
static void
append_member(StringInfo buf, const char *name, const char *value, bool json)
{
	appendStringInfo(buf, "%s\"%s\": ", buf->data[buf->len - 1] == '{' ? "" : ", ", name);
	if (value == NULL)
		appendStringInfoString(buf, "null");
	else if (json)
		appendStringInfoString(buf, value);
	else
		escape_json(buf, value);
}

/*
 * store_refused puts the rows noted by refuse into quarantine, in one
 * statement: most of what a row would cost by itself is the statement.  Of
 * rows that share a key the last stands, unless it is null.
 */
static void
store_refused(Batch *batch)
{
	RehomeSieve *sieve = batch->sieve;
	RehomeAs	as;
	MemoryContext old;

	if (batch->refused.len == 1)
		return;
	appendStringInfoChar(&batch->refused, ']');
	old = MemoryContextSwitchTo(sieve->scratch);
	rehome_become_catalog_owner(&as);
	rehome_spi("INSERT INTO rehome.quarantine (migration, slice, target, key, source_row, rule, sqlstate, message, source_key, contents)"
			   " SELECT DISTINCT ON (r->'source_key', r->>'contents') $1::name, $2::name, $3, nullif(r->'key', 'null'),"
			   " CASE WHEN $5 IS NULL THEN r->'source_row' ELSE rehome.blanked(r->'source_row', $5::text[]) END, r->>'rule',"
			   " r->>'sqlstate', r->>'message', r->'source_key', r->>'contents'"
			   " FROM jsonb_array_elements($4::jsonb) WITH ORDINALITY AS u(r, n) ORDER BY r->'source_key', r->>'contents', n DESC"
			   " ON CONFLICT (target, source_key, migration, contents) DO UPDATE SET slice = excluded.slice, key = excluded.key,"
			   " source_row = excluded.source_row, rule = excluded.rule, sqlstate = excluded.sqlstate,"
			   " message = excluded.message, last_seen = clock_timestamp(),"
			   /* of a row whose values are not on record nobody can say that it is the one that was accepted */
			   " accepted = quarantine.accepted AND quarantine.source_row = excluded.source_row AND ($5 IS NULL OR $6)",
			   "ttottb", sieve->slice->migration->name, sieve->slice->name, sieve->mapping->map->target,
			   batch->refused.data, sieve->redacted, sieve->again);
	rehome_become_self(&as);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sieve->scratch);
	resetStringInfo(&batch->refused);
	appendStringInfoChar(&batch->refused, '[');
}

/*
 * refuse notes a row of the batch for quarantine.
 */
static void
refuse(Batch *batch, int row)
{
	RehomeSieve *sieve = batch->sieve;
	StringInfo	buf = &batch->refused;
	ErrorData  *error = batch->error[row];
	Datum	   *values = &batch->source[row * batch->source_natts];
	bool	   *nulls = &batch->source_null[row * batch->source_natts];
	char	   *key = NULL;
	char	   *source_key;
	RehomeKnown *entry;
	MemoryContext old;

	remove_old(sieve, values, nulls);
	old = MemoryContextSwitchTo(sieve->scratch);
	entry = rehome_known_refused(sieve, values, nulls, &source_key);
	if (target_key(sieve, values, nulls))
		key = rehome_row_json(sieve->mapping->key_desc, sieve->key->result->tts_values, sieve->key->result->tts_isnull);
	appendStringInfoString(buf, buf->len > 1 ? ", {" : "{");
	append_member(buf, "key", key, true);
	append_member(buf, "source_row", rehome_row_json(sieve->mapping->source_desc, values, nulls), true);
	append_member(buf, "rule", error->column_name ? error->column_name : error->constraint_name, false);
	append_member(buf, "sqlstate", unpack_sql_state(error->sqlerrcode), false);
	append_member(buf, "message", sieve->redacted ? REHOME_REDACTED_MESSAGE : rehome_text_cut(error->message, MESSAGE_BYTES), false);
	append_member(buf, "source_key", source_key, true);
	/* of several that are equal each has its number */
	append_member(buf, "contents", rehome_known_contents(entry), false);
	appendStringInfoChar(buf, '}');
	MemoryContextSwitchTo(old);
	MemoryContextReset(sieve->scratch);
	if (buf->len >= STORE_BYTES)
		store_refused(batch);
}

/*
 * load_source puts a row of the batch into the projector's source slot.
 */
static void
load_source(Batch *batch, int row)
{
	TupleTableSlot *slot = batch->projector->source;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, &batch->source[row * batch->source_natts], sizeof(Datum) * batch->source_natts);
	memcpy(slot->tts_isnull, &batch->source_null[row * batch->source_natts], sizeof(bool) * batch->source_natts);
	ExecStoreVirtualTuple(slot);
}

static void
keep_result(Batch *batch, int row)
{
	TupleTableSlot *slot = batch->projector->result;

	memcpy(&batch->result[row * batch->result_natts], slot->tts_values, sizeof(Datum) * batch->result_natts);
	memcpy(&batch->result_null[row * batch->result_natts], slot->tts_isnull, sizeof(bool) * batch->result_natts);
	batch->good[row] = true;
}

/*
 * project_rows projects the rows from batch->at on, until one is refused, or
 * lacks a value.
 */
static void
project_rows(void *arg)
{
	Batch	   *batch = arg;

	for (; batch->at < batch->n; batch->at++)
	{
		CHECK_FOR_INTERRUPTS();
		load_source(batch, batch->at);
		(void) rehome_project(batch->projector);
		if (!rehome_project_complete(batch->projector))
			break;
		keep_result(batch, batch->at);
	}
}

/* One entry of a projection, evaluated by itself. */
typedef struct Single
{
	ExprState  *state;
	ExprContext *econtext;
	Datum		value;
	bool		isnull;
} Single;

static void
evaluate(void *arg)
{
	Single	   *single = arg;

	single->value = ExecEvalExpr(single->state, single->econtext, &single->isnull);
}

/*
 * prepare_singles makes expressions of a projection's entries.
 */
static void
prepare_singles(RehomeProjector *p)
{
	MemoryContext old = MemoryContextSwitchTo(p->estate->es_query_cxt);
	int			n = list_length(p->targetlist);
	ListCell   *lc;

	p->single = palloc0(sizeof(ExprState *) * Max(n, 1));
	p->instead = palloc0(sizeof(ExprState *) * Max(n, 1));
	foreach(lc, p->targetlist)
	{
		int			i = foreach_current_index(lc);

		p->single[i] = ExecInitExpr(lfirst_node(TargetEntry, lc)->expr, NULL);
		if (p->column[i] != NULL && p->column[i]->instead != NULL)
			p->instead[i] = ExecInitExpr(p->column[i]->instead, NULL);
	}
	MemoryContextSwitchTo(old);
}

/*
 * null_error is what a column that may not be null would raise.
 */
static ErrorData *
null_error(RehomeMappedColumn *column)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_NOT_NULL_VIOLATION;
	error->message = psprintf("null value in column \"%s\" violates not-null constraint", column->name);
	return error;
}

/*
 * project_single does a row column by column, by each column's policy; the
 * row is good, or has an error.
 */
static void
project_single(Batch *batch, int row)
{
	RehomeProjector *p = batch->projector;

	if (p->single == NULL)
		prepare_singles(p);
	load_source(batch, row);
	ExecClearTuple(p->result);
	for (int i = 0; i < batch->result_natts; i++)
	{
		RehomeMappedColumn *column = p->column[i];
		Single		single = {p->single[i], p->econtext};
		ErrorData  *error = rehome_attempt(evaluate, &single);

		if (error == NULL && single.isnull && column != NULL && column->notnull && column->on_error != 'f')
			error = null_error(column);
		if (error != NULL)
		{
			if (!rehome_refusable(error->sqlerrcode) || column == NULL || column->on_error == 'f')
				ReThrowError(error);
			single.isnull = true;
			if (column->on_error == 'q' && batch->error[row] == NULL)
			{
				error->column_name = column->name;
				batch->error[row] = error;
			}
			else if (column->on_error == 'd' && p->instead[i] != NULL)
				single.value = ExecEvalExpr(p->instead[i], p->econtext, &single.isnull);
			if (single.isnull && column->notnull && column->on_error != 'q')
				ReThrowError(error);
		}
		p->result->tts_values[i] = single.value;
		p->result->tts_isnull[i] = single.isnull;
	}
	if (batch->error[row] == NULL)
		keep_result(batch, row);
}

/*
 * write_rows hands the good rows of a range to the taker.
 */
static void
write_rows(void *arg)
{
	Batch	   *batch = arg;
	RehomeTaker *taker = batch->sieve->taker;
	TupleTableSlot *slot = batch->projector->result;

	for (int row = batch->lo; row < batch->hi; row++)
	{
		if (!batch->good[row])
			continue;
		ExecClearTuple(slot);
		memcpy(slot->tts_values, &batch->result[row * batch->result_natts], sizeof(Datum) * batch->result_natts);
		memcpy(slot->tts_isnull, &batch->result_null[row * batch->result_natts], sizeof(bool) * batch->result_natts);
		ExecStoreVirtualTuple(slot);
		taker->take(slot, taker->arg);
	}
	if (taker->flush != NULL && batch->sieve->mapping->map->quarantine)
		taker->flush(taker->arg);
}

/*
 * try_range writes a range in a subtransaction; returns the error, which lives
 * as long as the batch, if a constraint refuses it.
 */
static ErrorData *
try_range(Batch *batch, int lo, int hi)
{
	ErrorData  *error;

	batch->lo = lo;
	batch->hi = hi;
	error = rehome_attempt_in(write_rows, batch, GetPerTupleMemoryContext(batch->projector->estate));
	if (error == NULL)
		return NULL;
	/* a statement that the target cannot have is no fault of a row's */
	if (!rehome_refusable(error->sqlerrcode) || error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED)
		ReThrowError(error);
	batch->sieve->taker->reset(batch->sieve->taker->arg);
	return error;
}

/*
 * write_range writes a range; by halves if it must.  Rows that are to blame
 * are marked, and their old versions removed.
 */
static void
write_range(Batch *batch, int lo, int hi)
{
	/* what is to be written yet, the next one last: one for each halving */
	struct
	{
		int			lo;
		int			hi;
	}			left[sizeof(int) * BITS_PER_BYTE];
	int			n = 0;

	left[n].lo = lo;
	left[n++].hi = hi;
	while (n > 0)
	{
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		lo = left[--n].lo;
		hi = left[n].hi;
		if (lo >= hi || (error = try_range(batch, lo, hi)) == NULL)
			continue;
		if (hi - lo == 1)
		{
			batch->blamed[lo] = true;
			batch->error[lo] = error;
			remove_old(batch->sieve, &batch->source[lo * batch->source_natts],
					   &batch->source_null[lo * batch->source_natts]);
			continue;
		}
		left[n].lo = lo + (hi - lo) / 2;
		left[n++].hi = hi;
		left[n].lo = lo;
		left[n++].hi = lo + (hi - lo) / 2;
	}
}

/*
 * write_batch writes what is good, and puts away what is not.
 */
static int64
write_batch(Batch *batch)
{
	RehomeSieve *sieve = batch->sieve;
	bool		progress = true;
	int64		n = 0;

	if (sieve->mapping->map->quarantine && !sieve->look_only)
		write_range(batch, 0, batch->n);
	else
	{
		batch->lo = 0;
		batch->hi = batch->n;
		write_rows(batch);
	}
	while (progress)
	{
		progress = false;
		for (int row = 0; row < batch->n; row++)
			if (batch->blamed[row] && try_range(batch, row, row + 1) == NULL)
			{
				batch->blamed[row] = false;
				batch->error[row] = NULL;
				progress = true;
			}
	}
	for (int row = 0; row < batch->n; row++)
	{
		RehomeKnown *entry;

		if (batch->good[row] && !batch->blamed[row])
		{
			n++;
			if (!sieve->look_only &&
				(entry = rehome_known_find(sieve, &batch->source[row * batch->source_natts],
									&batch->source_null[row * batch->source_natts])) != NULL)
				rehome_known_release(sieve, entry);
		}
		else if (!sieve->look_only)
			refuse(batch, row);
	}
	store_refused(batch);
	return n;
}

/*
 * leave_out decides, in verification, on a row that is read: what is in
 * quarantine is explained.
 */
static bool
leave_out(Batch *batch, int row)
{
	RehomeSieve *sieve = batch->sieve;

	if (!sieve->look_only || rehome_known_find(sieve, &batch->source[row * batch->source_natts],
										&batch->source_null[row * batch->source_natts]) == NULL)
		return false;
	sieve->explained++;
	return true;
}

/*
 * read_batch reads rows until the batch is full; false at the end.
 */
static bool
read_batch(RehomeReader *reader, Batch *batch)
{
	MemoryContext context = GetPerTupleMemoryContext(batch->projector->estate);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		more = true;

	batch->n = 0;
	batch->at = 0;
	initStringInfo(&batch->refused);
	appendStringInfoChar(&batch->refused, '[');
	while (batch->n < BATCH_ROWS && MemoryContextMemAllocated(context, true) < BATCH_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		more = rehome_reader_next(reader, batch->projector->econtext,
								  &batch->source[batch->n * batch->source_natts],
								  &batch->source_null[batch->n * batch->source_natts]);
		if (!more)
			break;
		batch->good[batch->n] = batch->blamed[batch->n] = false;
		batch->error[batch->n] = NULL;
		if (!leave_out(batch, batch->n))
			batch->n++;
	}
	MemoryContextSwitchTo(old);
	return more;
}

/*
 * rehome_sieve_stream is rehome_stream for a mapping with a sieve: rows go to
 * its taker, or to quarantine.  Returns the number of rows that were taken.
 */
int64
rehome_sieve_stream(RehomeConn *conn, const char *select, RehomeMapping *mapping,
					List *columns, RehomeProjector *projector, int64 *bytes)
{
	RehomeReader *reader = rehome_reader_open(conn, mapping->map->source, columns, select);
	MemoryContext context = GetPerTupleMemoryContext(projector->estate);
	Batch		batch = {.sieve = mapping->sieve,.projector = projector};
	int64		size;
	int64		n = 0;
	bool		more;

	batch.source_natts = mapping->source_desc->natts;
	batch.result_natts = projector->result->tts_tupleDescriptor->natts;
	batch.source = palloc(sizeof(Datum) * BATCH_ROWS * Max(batch.source_natts, 1));
	batch.source_null = palloc(sizeof(bool) * BATCH_ROWS * Max(batch.source_natts, 1));
	batch.result = palloc(sizeof(Datum) * BATCH_ROWS * Max(batch.result_natts, 1));
	batch.result_null = palloc(sizeof(bool) * BATCH_ROWS * Max(batch.result_natts, 1));
	batch.good = palloc(sizeof(bool) * BATCH_ROWS);
	batch.blamed = palloc(sizeof(bool) * BATCH_ROWS);
	batch.error = palloc(sizeof(ErrorData *) * BATCH_ROWS);
	do
	{
		MemoryContext old;

		ResetPerTupleExprContext(projector->estate);
		more = read_batch(reader, &batch);
		old = MemoryContextSwitchTo(context);
		while (batch.at < batch.n)
		{
			ErrorData  *error = rehome_attempt(project_rows, &batch);

			if (error != NULL && !rehome_refusable(error->sqlerrcode))
				ReThrowError(error);
			if (batch.at < batch.n)
				project_single(&batch, batch.at++);
		}
		MemoryContextSwitchTo(old);
		for (int row = 0; batch.sieve->look_only && row < batch.n; row++)
			batch.sieve->refused += batch.good[row] ? 0 : 1;
		n += write_batch(&batch);
	} while (more);

	size = rehome_reader_close(reader);
	if (bytes != NULL)
		*bytes = size;
	return n;
}
