/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Background workers: what they all do, and asking for one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_WORKER_H
#define REHOME_WORKER_H

#include "catalog/migration.h"
#include "postmaster/bgworker.h"

/* worker.c */
extern void rehome_worker_define(BackgroundWorker *worker, const char *type,
								 const char *name, const char *function);
extern MemoryContext rehome_worker_attach(Oid database);
extern void rehome_worker_report(int slice_id, MemoryContext context);
extern bool rehome_database_in_demand(void);
extern void rehome_worker_yield_database(void);
extern bool rehome_worker_is_wanted(void);
extern void rehome_worker_init(void);
extern void rehome_worker_request(RehomeSlice *slice);
extern bool rehome_worker_start(Oid database, int slice_id, const char *name);
extern bool rehome_worker_claim(int slice_id);
extern bool rehome_worker_runs(int slice_id);

/* launcher.c */
extern void rehome_launcher_register(void);

/*
 * What a sync worker does in a state: one step, in a frame that may commit.
 * Returns the milliseconds until the next, 0 for at once.
 */
typedef struct RehomeWorkerState RehomeWorkerState;
typedef long (*RehomeHandler) (RehomeWorkerState *worker, RehomeCall *call, RehomeSlice *slice);

#endif							/* REHOME_WORKER_H */
