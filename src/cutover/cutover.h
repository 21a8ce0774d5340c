/*-------------------------------------------------------------------------
 *
 * cutover.h
 *	  Moving authority between the two sides.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_CUTOVER_H
#define REHOME_CUTOVER_H

#include "catalog/migration.h"
#include "compat.h"
#include "remote/connection.h"
#include "utils/timestamp.h"

/* Drain at most this often; a backlog that does not shrink is no reason to wait for ever. */
#define REHOME_MAX_DRAINS 50

/* A write freeze being measured. */
typedef struct RehomeFreeze
{
	TimestampTz began;			/* 0: not frozen */
	int64		event;			/* whose detail gets the length */
	const char *rules;			/* hash of the rules that made the target, or NULL */
} RehomeFreeze;

/* cutover.c, rollback.c: may commit in between when the frame may. */
extern void rehome_cutover_slice(RehomeCall *call, RehomeSlice *slice, bool one_way);
extern void rehome_rollback_slice(RehomeCall *call, RehomeSlice *slice);

/* recover.c */
extern void rehome_recover_slice(RehomeSlice *slice);
extern bool rehome_give_back(RehomeConn *conn, RehomeSlice *slice, List *maps, char **tail);

extern char *rehome_source_authority(RehomeConn *conn, RehomeSlice *slice);

/* finish.c: the frame may commit. */
extern void rehome_complete_slice(RehomeCall *call, RehomeSlice *slice, bool local_only);
extern bool rehome_cancel_slice(RehomeCall *call, RehomeSlice *slice, bool local_only);

/* freeze.c */
extern void rehome_freeze_begin(RehomeFreeze *freeze, int grace);
extern void rehome_freeze_check(RehomeFreeze *freeze, const char *step);
pg_noreturn extern void rehome_freeze_rethrow(RehomeFreeze *freeze);
extern char *rehome_freeze_detail(RehomeFreeze *freeze, int64 rows);
extern void rehome_freeze_record(RehomeFreeze *freeze);

/* sequence.c */
extern void rehome_sequences_to_target(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern RehomeRows *rehome_value_sources(RehomeTableMap *map);
extern const char *rehome_value_source(RehomeRows *sources, const char *column);
extern List *rehome_sequences_left(RehomeTableMap *map);
extern List *rehome_sequences_not_owned(RehomeConn *conn, RehomeTableMap *map, Oid owner, List **hints);
extern char *rehome_sequences_to_source(RehomeConn *conn, RehomeSlice *slice, List *maps);

#endif							/* REHOME_CUTOVER_H */
