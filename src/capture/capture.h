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
#include "util/problems.h"
#include "utils/relcache.h"

/* At the source. */
extern RehomeConn *rehome_slice_connect(RehomeSlice *slice, const char *purpose);
extern bool rehome_source_remember(RehomeConn *conn, RehomeMigration *migration);
extern void rehome_source_install(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern RehomeRows *rehome_source_taken(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern bool rehome_source_covered(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map);
extern void rehome_source_cover(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map, bool locked);
extern void rehome_source_note_partitions(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map);
extern bool rehome_source_remove(RehomeConn *conn, RehomeSlice *slice, List *maps,
								 bool keep_fence);
extern char *rehome_source_identity(RehomeConn *conn);
pg_noreturn extern void rehome_source_raise_locked(RehomeConn *conn, List *maps, bool readers);
extern void rehome_source_check_identity(RehomeConn *conn, RehomeSlice *slice);
extern bool rehome_source_inspect(RehomeConn *conn, RehomeSlice *slice, List *maps,
								  const char *print, List **touched);
extern void rehome_source_inspect_back(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern RehomeRows *rehome_source_mend(RehomeConn *conn, RehomeSlice *slice);
extern void rehome_source_flushed(RehomeConn *conn, RehomeSlice *slice, const char *lsn,
								  bool in_transaction);
extern bool rehome_source_locked(RehomeConn *conn, RehomeSlice *slice, List *maps,
								 char **blockers);

/* Tables that are not what they were, and what becomes of them. */
extern List *rehome_structures(RehomeConn *conn, List *maps);
extern void rehome_map_pause(RehomeSlice *slice, RehomeTableMap *map, const char *reason, bool lossy);
extern bool rehome_structure_lossy(const char *before, const char *after);
extern bool rehome_structure_changed(RehomeSlice *slice, RehomeTableMap *map,
									 bool source, const char *now);
extern void rehome_map_lost(RehomeSlice *slice, RehomeTableMap *map, const char *side,
							const char *kind, const char *what, const char *hint);
extern void rehome_map_reread(RehomeSlice *slice, RehomeTableMap *map, const char *kind, const char *what);
extern List *rehome_target_inspect(RehomeSlice *slice, List *maps);
extern List *rehome_triggers_lost(List *maps, bool back);
extern void rehome_target_log_all(RehomeTableMap *map);
extern List *rehome_maps_running(List *maps);
extern List *rehome_maps_behind(List *maps);
extern void rehome_maps_paused(RehomeSlice *slice, List *maps, RehomeProblems *problems);
extern void rehome_map_caught_up(RehomeTableMap *map);
extern char *rehome_source_damage(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map);
extern void rehome_source_put_back(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map);

/* How long to wait for autovacuum to give way; writers are not affected. */
#define REHOME_AUTOVACUUM_TIMEOUT 10000

/* At the target. */
extern void rehome_targets_lock(List *maps, LOCKMODE mode);
extern bool rehome_target_try_lock(RehomeTableMap *map, LOCKMODE mode);
extern char *rehome_targets_try_take(List *written, List *kept);
extern char *rehome_local_blockers(List *oids, LOCKMODE mode);
extern void rehome_targets_blocked(int attempt, const char *blockers);
extern void rehome_target_guard(RehomeSlice *slice, List *maps);
extern void rehome_target_install(RehomeSlice *slice, List *maps, bool guarded);
extern bool rehome_target_covered(List *maps);
extern char *rehome_target_unlogged(Oid target);
extern RehomeRows *rehome_target_unidentified(RehomeTableMap *map);
extern bool rehome_target_is_empty(Oid target, Oid owner);
extern void rehome_target_require_logged(Oid target);
extern char *rehome_target_partitions(Oid target, Snapshot snapshot);
extern bool rehome_target_repartitioned(RehomeTableMap *map, Snapshot snapshot, char **parts,
										List **added, bool *whole);
extern List *rehome_targets_uncovered(List *maps, Snapshot snapshot);
extern bool rehome_target_cover(RehomeSlice *slice, List *maps);
extern void rehome_target_note_parts(RehomeTableMap *map, const char *parts);
extern void rehome_target_note_partitions(List *maps);
extern bool rehome_target_settle(RehomeSlice *slice, RehomeTableMap *map);
extern void rehome_target_let_write(RehomeTableMap *map);
extern void rehome_target_hold(List *maps);
extern void rehome_target_check_capture(List *maps);
extern void rehome_target_remove(List *maps);
extern void rehome_target_switch(List *maps, bool guard, bool capture);
extern void rehome_target_guard_switch(RehomeTableMap *map, bool on);
extern bool rehome_target_changed(RehomeTableMap *map, const char *position);
extern char *rehome_target_change_table(RehomeTableMap *map);
extern char *rehome_target_key_columns(RehomeTableMap *map);

/* Writes of our own, which the guard lets pass and capture ignores. */
extern void rehome_own_writes_init(void);
extern void rehome_own_writes_begin(Oid target, Oid archive);
extern void rehome_own_writes_end(void);
extern bool rehome_own_writes(Relation rel);
extern bool rehome_is_part(Relation rel, Oid of);

/* Writes of others to a target, where the drift policy lets them pass. */
extern char *rehome_drift_relog(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern void rehome_drift_repaired(const char *ids);
extern List *rehome_drift_open(RehomeSlice *slice);
extern void rehome_drift_unguarded_known(RehomeSlice *slice, RehomeTableMap *map);
extern void rehome_drift_begin(RehomeSlice *slice);
extern void rehome_refused_note(RehomeSlice *slice, List *maps, const char *side, const char *counted);
extern void rehome_refused_at_target(RehomeSlice *slice, List *maps);
extern void rehome_refused_end(RehomeSlice *slice, const char *side, const char *resolution);

#endif							/* REHOME_CAPTURE_H */
