/*-------------------------------------------------------------------------
 *
 * sink.c
 *	  Result rows put together from text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "util/sink.h"

/*
 * rehome_sink_begin prepares a set-returning function to put its rows.
 */
void
rehome_sink_begin(RehomeSink *sink, FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	sink->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	sink->meta = TupleDescGetAttInMetadata(sink->rsinfo->setDesc);
}

/*
 * rehome_sink_put puts one row, a text or NULL for each result column.
 */
void
rehome_sink_put(RehomeSink *sink, char **values)
{
	HeapTuple	tuple = BuildTupleFromCStrings(sink->meta, values);

	tuplestore_puttuple(sink->rsinfo->setResult, tuple);
	heap_freetuple(tuple);
}
