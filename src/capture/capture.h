/*-------------------------------------------------------------------------
 *
 * capture.h
 *	  Change capture and fences, on both sides.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_CAPTURE_H
#define REHOME_CAPTURE_H

#include "catalog/migration.h"
#include "remote/connection.h"
#include "storage/lockdefs.h"

/* At the source. */
extern RehomeConn *rehome_slice_connect(RehomeSlice *slice, const char *purpose);
extern void rehome_source_install(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern void rehome_source_cover(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map);
extern bool rehome_source_remove(RehomeConn *conn, RehomeSlice *slice, List *maps,
								 bool keep_fence);
extern char *rehome_source_identity(RehomeConn *conn);
extern void rehome_source_raise_locked(RehomeConn *conn, List *maps) pg_attribute_noreturn();
extern void rehome_source_check_identity(RehomeConn *conn, RehomeMigration *migration);
extern bool rehome_source_inspect(RehomeConn *conn, RehomeSlice *slice, List *maps,
								  const char *print, List **touched);
extern void rehome_source_flushed(RehomeConn *conn, RehomeSlice *slice, const char *lsn,
								  bool in_transaction);
extern bool rehome_source_locked(RehomeConn *conn, RehomeSlice *slice, List *maps,
								 char **blockers);

/* How long to wait for autovacuum to give way; writers are not affected. */
#define REHOME_AUTOVACUUM_TIMEOUT 10000

/* At the target. */
extern void rehome_targets_lock(List *maps, LOCKMODE mode);
extern void rehome_target_guard(RehomeSlice *slice, List *maps);
extern void rehome_target_install(RehomeSlice *slice, List *maps, bool guarded);
extern bool rehome_target_covered(List *maps);
extern char *rehome_target_partitions(Oid target);
extern void rehome_target_hold(List *maps);
extern void rehome_target_check_capture(List *maps);
extern void rehome_target_remove(List *maps);
extern void rehome_target_switch(List *maps, bool guard, bool capture);
extern char *rehome_target_change_table(RehomeTableMap *map);

/* Writes of our own, which the guard lets pass and capture ignores. */
extern void rehome_own_writes_init(void);
extern void rehome_own_writes_begin(void);
extern void rehome_own_writes_end(void);

#endif							/* REHOME_CAPTURE_H */
