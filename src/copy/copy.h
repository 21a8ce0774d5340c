/*-------------------------------------------------------------------------
 *
 * copy.h
 *	  The initial copy of a slice.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_COPY_H
#define REHOME_COPY_H

#include "catalog/migration.h"
#include "mapping/mapping.h"
#include "remote/connection.h"
#include "util/problems.h"

/* What a copy worker is told. */
typedef struct RehomeCopyJob
{
	Oid			database;
	int			slice_id;
	bool		resumed;		/* rows changed since the position are left to sync */
	int			workers;
	int			chunk_time;		/* the leader's settings */
	int			lock_timeout;
	int			maintenance_work_mem;
	int			max_rate;
	int			max_replica_lag;
	int			max_source_backends;
	int64		run;			/* which of the slice's leaders this is from */
	char		snapshot[64];	/* exported by the leader's source transaction */
} RehomeCopyJob;

/* copy.c: the leader. */
extern bool rehome_copy_slice(RehomeCall *call, RehomeSlice *slice);
extern void rehome_copy_begin(RehomeCall *call, RehomeSlice *slice);

/* worker.c: the work. */
extern bool rehome_copy_lead(int slice_id);
extern void rehome_copy_unlead(int slice_id);
extern void rehome_copy_work(RehomeCall *call, const RehomeCopyJob *job, bool leading);
extern void rehome_copy_launch(RehomeCall *call, RehomeCopyJob *job);

/* chunk.c */
extern void rehome_chunk_plan(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern void rehome_chunk_replan(RehomeConn *conn, RehomeSlice *slice, List *maps);

/* load.c */
typedef struct RehomeLoader RehomeLoader;

extern bool rehome_load_is_plain(Oid target, int16 events);
extern RehomeLoader *rehome_loader_begin(Oid target);
extern void rehome_loader_put(TupleTableSlot *row, void *loader);
extern void rehome_loader_end(RehomeLoader *loader);
extern int64 rehome_load_chunk(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
							   const char *select, List *columns, int64 *bytes);
extern int64 rehome_load_local(RehomeSlice *slice, RehomeMapping *mapping);

/* saved_object.c */
extern void rehome_saved_take(List *maps, List *small);
extern bool rehome_saved_build_one(RehomeSlice *slice, double weight);
extern bool rehome_saved_finish_one(RehomeSlice *slice);
extern bool rehome_saved_key_one(RehomeSlice *slice);
extern bool rehome_saved_rebuild(RehomeSlice *slice, int level);
extern void rehome_saved_validate(RehomeSlice *slice);

#endif							/* REHOME_COPY_H */
