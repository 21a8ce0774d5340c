/*-------------------------------------------------------------------------
 *
 * sync.h
 *	  The sync worker and the handlers it runs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SYNC_H
#define REHOME_SYNC_H

#include "access/xlogdefs.h"
#include "remote/connection.h"
#include "worker/worker.h"

/* What a sync worker keeps between two steps. */
struct RehomeWorkerState
{
	RehomeConn *conn;			/* to the source, or NULL */
	List	   *maps;			/* the slice's table maps, in maps_context */
	int64		maps_version;	/* of the slice, when they were read */
	MemoryContext maps_context; /* they and all they refer to; nothing else */
	MemoryContext context;		/* what else is kept */
	RehomeState state;			/* the maps were read in */
	bool		in_doubt;		/* the sides disagree: recover first */
	bool		uncovered;		/* partitions of targets want triggers before the next batch back */
	char	   *idle_snapshot;	/* of the source, in which nothing was new; or NULL */
	char	   *prune_position; /* applied, not yet known to be on disk */
	bool		prune_wanted;	/* a batch has found something since that was set */
	XLogRecPtr	prune_lsn;
	TimestampTz pruned_at;
	TimestampTz positioned_at;
	TimestampTz scheduled_at;	/* when the schedule was last looked at */
};

extern PGDLLEXPORT void rehome_sync_worker_main(Datum arg);

/* handlers.c: by state; NULL where a worker has nothing to do. */
extern RehomeHandler rehome_handler(RehomeState state, bool in_doubt);

#endif							/* REHOME_SYNC_H */
