/*-------------------------------------------------------------------------
 *
 * stream.h
 *	  Source rows through the compiled maps into whatever takes them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_STREAM_H
#define REHOME_STREAM_H

#include "copy/reader.h"
#include "mapping/mapping.h"
#include "remote/connection.h"
#include "utils/tuplestore.h"

/* Takes one projected row; it is gone after the call. */
typedef void (*RehomeReceive) (TupleTableSlot *slot, void *arg);

extern int64 rehome_stream(RehomeConn *conn, const char *select, RehomeMapping *mapping,
						   List *columns, RehomeProjector *projector,
						   RehomeReceive receive, void *arg, int64 *bytes);
extern int64 rehome_stream_sent(RehomeReader *reader, RehomeMapping *mapping,
								RehomeProjector *projector, RehomeReceive receive, void *arg);
extern int64 rehome_stream_gone(RehomeConn *conn, const char *select, RehomeMapping *mapping,
								RehomeProjector *projector, RehomeReceive receive, void *arg);
extern int64 rehome_stream_local(const char *select, RehomeMapping *mapping,
								 RehomeProjector *projector,
								 RehomeReceive receive, void *arg);
extern void rehome_receive_store(TupleTableSlot *slot, void *tuplestore);

#endif							/* REHOME_STREAM_H */
