/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  Source rows through the compiled maps into whatever takes them.
 *
 * From a PostgreSQL source rows come as COPY data (reader.c), shaped like the
 * foreign table; from anything else a cursor over the foreign table gives
 * them.  Either way each goes through one projection, in memory that is reset
 * for every row.
 *
 * The caller is the migration's owner while this runs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copy/sieve.h"
#include "copy/stream.h"
#include "miscadmin.h"
#include "util/attempt.h"
#include "util/spi.h"
#include "utils/memutils.h"

static void
project(void *projector)
{
	(void) rehome_project(projector);
}

/*
 * try_project projects in a subtransaction; false when the map refuses the
 * row's values.
 */
static bool
try_project(RehomeProjector *projector)
{
	ErrorData  *error = rehome_attempt(project, projector);

	if (error == NULL)
		return true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/*
 * stream is what the others share; with tolerant, rows whose values the map
 * refuses are left out.
 */
static int64
stream(RehomeReader *reader, RehomeMapping *mapping, RehomeProjector *projector,
	   RehomeReceive receive, void *arg, int64 *bytes, bool tolerant)
{
	TupleTableSlot *source_slot = projector->source;
	int64		size;
	int64		n = 0;

	for (;;)
	{
		MemoryContext old;
		bool		found;
		bool		wanted = true;

		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(projector->estate);
		old = MemoryContextSwitchTo(GetPerTupleMemoryContext(projector->estate));
		ExecClearTuple(source_slot);
		found = rehome_reader_next(reader, projector->econtext,
								   source_slot->tts_values, source_slot->tts_isnull);
		if (found)
		{
			ExecStoreVirtualTuple(source_slot);
			if (mapping->sieve != NULL)
				rehome_sieve_gone(mapping->sieve, source_slot);
			if (tolerant)
				wanted = try_project(projector);
			else
				(void) rehome_project(projector);
		}
		MemoryContextSwitchTo(old);
		if (!found)
			break;
		if (!wanted)
			continue;
		receive(projector->result, arg);
		n++;
	}

	size = rehome_reader_close(reader);
	if (bytes != NULL)
		*bytes = size;
	return n;
}

/*
 * rehome_stream runs select at the source and hands its rows, projected, to
 * receive().  columns (char *) names select's columns, in order, as the
 * foreign table has them.  Returns the number of rows; *bytes, if given, the
 * size of the stream.  With a sieve on the mapping its taker gets them, and
 * some may be refused.
 */
int64
rehome_stream(RehomeConn *conn, const char *select, RehomeMapping *mapping,
			  List *columns, RehomeProjector *projector,
			  RehomeReceive receive, void *arg, int64 *bytes)
{
	if (mapping->sieve != NULL)
		return rehome_sieve_stream(conn, select, mapping, columns, projector, bytes);
	return stream(rehome_reader_open(conn, mapping->map->source, columns, select),
				  mapping, projector, receive, arg, bytes, false);
}

/*
 * rehome_stream_sent does the same with what the source was sent before
 * (rehome_reader_send); the mapping has no sieve.
 */
int64
rehome_stream_sent(RehomeReader *reader, RehomeMapping *mapping, RehomeProjector *projector,
				   RehomeReceive receive, void *arg)
{
	rehome_reader_begin(reader);
	return stream(reader, mapping, projector, receive, arg, NULL, false);
}

/*
 * rehome_stream_gone does the same for the keys of rows that are gone.  A key
 * the map cannot compute was never at the target, so it is left out: the row
 * that had it for a while must not stop sync for ever.
 */
int64
rehome_stream_gone(RehomeConn *conn, const char *select, RehomeMapping *mapping,
				   RehomeProjector *projector, RehomeReceive receive, void *arg)
{
	bool		computed = false;

	for (int k = 0; k < mapping->nkey; k++)
		computed = computed || mapping->key[k]->plain == 0;
	return stream(rehome_reader_open(conn, mapping->map->source, mapping->map->source_key, select),
				  mapping, projector, receive, arg, NULL, computed);
}

/*
 * rehome_stream_local does the same with a local query that returns rows
 * shaped like the source relation (rehome_source_row).
 */
int64
rehome_stream_local(const char *select, RehomeMapping *mapping,
					RehomeProjector *projector, RehomeReceive receive, void *arg)
{
	Portal		cursor = rehome_cursor_open(select);
	SPITupleTable *table;
	int64		n = 0;

	while ((table = rehome_cursor_fetch(cursor, REHOME_FETCH_ROWS)) != NULL)
	{
		for (uint64 i = 0; i < table->numvals; i++)
		{
			MemoryContext old;
			TupleTableSlot *source_slot = projector->source;

			CHECK_FOR_INTERRUPTS();
			ResetPerTupleExprContext(projector->estate);
			old = MemoryContextSwitchTo(GetPerTupleMemoryContext(projector->estate));
			ExecClearTuple(source_slot);
			heap_deform_tuple(table->vals[i], table->tupdesc,
							  source_slot->tts_values, source_slot->tts_isnull);
			ExecStoreVirtualTuple(source_slot);
			(void) rehome_project(projector);
			MemoryContextSwitchTo(old);
			receive(projector->result, arg);
			n++;
		}
		SPI_freetuptable(table);
	}
	SPI_cursor_close(cursor);
	return n;
}

/*
 * rehome_receive_store keeps rows in a tuplestore.
 */
void
rehome_receive_store(TupleTableSlot *slot, void *tuplestore)
{
	tuplestore_puttupleslot((Tuplestorestate *) tuplestore, slot);
}
