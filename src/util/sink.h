/*-------------------------------------------------------------------------
 *
 * sink.h
 *	  Result rows put together from text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SINK_H
#define REHOME_SINK_H

#include "funcapi.h"

/* Where the rows of a set-returning function go, as text. */
typedef struct RehomeSink
{
	ReturnSetInfo *rsinfo;
	AttInMetadata *meta;
} RehomeSink;

extern void rehome_sink_begin(RehomeSink *sink, FunctionCallInfo fcinfo);
extern void rehome_sink_put(RehomeSink *sink, char **values);

#endif							/* REHOME_SINK_H */
