/*-------------------------------------------------------------------------
 *
 * apply.h
 *	  Bringing rows into tables: batches forward and back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_APPLY_H
#define REHOME_APPLY_H

#include "catalog/migration.h"
#include "compat.h"
#include "mapping/mapping.h"
#include "remote/connection.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

/* Being the owner, in replica role, with the guard open. */
typedef struct RehomeApplying
{
	RehomeAs	as;
	int			guc_level;
} RehomeApplying;

extern void rehome_applying_begin(RehomeApplying *applying, Oid owner, RehomeTableMap *map);
extern void rehome_applying_end(RehomeApplying *applying);

/* Rows on hand, visible to SQL under a name while registered. */
extern int64 rehome_rows_read(const char *sql, Tuplestorestate *store, TupleDesc *desc);
extern void rehome_rows_register(const char *name, TupleDesc desc,
								 Tuplestorestate *store, int64 n);
extern void rehome_rows_unregister(const char *name);

/* Applying to the target. */
extern int64 rehome_apply_delete_all(RehomeMapping *mapping);
extern int64 rehome_apply_refused(RehomeMapping *mapping, Tuplestorestate *keys, int64 n);
extern int64 rehome_apply_gone_treated(RehomeMapping *mapping, Tuplestorestate *keys, int64 n,
									   bool absent);
extern int64 rehome_absent_keys(RehomeMapping *mapping, const char *within, Tuplestorestate *present,
								int64 npresent, Tuplestorestate *absent);
extern char *rehome_marked(RehomeMapping *mapping, const char *prefix);
extern char *rehome_live_rows(RehomeMapping *mapping);
extern bool rehome_apply_is_fragile(RehomeMapping *mapping);
extern bool rehome_apply_keeps(RehomeMapping *mapping);
extern int64 rehome_apply_rows(RehomeMapping *mapping, Tuplestorestate *rows, int64 n);
extern int64 rehome_apply_columns(RehomeMapping *mapping, Tuplestorestate *rows, int64 n);
extern bool rehome_sees_stored(Relation rel, Oid role, AclMode privileges);
extern int64 rehome_apply_direct(RehomeMapping *mapping, Tuplestorestate *rows, int64 n,
								 Tuplestorestate *left, int64 *nleft);
extern void rehome_apply_end(RehomeMapping *mapping);
extern int64 rehome_apply_insert(RehomeMapping *mapping, Tuplestorestate *rows, int64 n);
extern bool rehome_has_deferred(Oid target);
extern void rehome_check_deferred(Oid target, RehomeMapping *mapping);
extern char *rehome_target_name(RehomeMapping *mapping);
extern char *rehome_mapped_list(RehomeMapping *mapping, const char *prefix);
extern char *rehome_key_condition(RehomeMapping *mapping, const char *a, const char *b);
/* How SQL sees RehomeMapping.respelled. */
#define REHOME_RESPELLED "rehome_respelled"

extern bool rehome_may_be_taken(RehomeMapping *mapping);
extern char *rehome_same_row(RehomeMapping *mapping, const char *a, const char *b);
extern void rehome_respelled_begin(RehomeMapping *mapping);
extern void rehome_respelled_end(RehomeMapping *mapping);
extern char *rehome_takes_over(RehomeMapping *mapping, const char *a, const char *b);
extern void rehome_check_taken(RehomeMapping *mapping);

/* A batch: what it took to get from one snapshot of the source to another. */
typedef struct RehomeBatch
{
	char	   *position;		/* the later snapshot */
	char	   *lsn;			/* everything it sees is before this in the source's log */
	int			ntables;		/* tables that had changed */
	int64		nrows;			/* rows read */
	int64		touched;		/* rows changed at the target */
	char	   *blockers;		/* who kept us from locking a target, or NULL */
	bool		busy;			/* the source's tables could not be locked in time */
	List	   *uncovered;		/* whose new partitions want triggers before they are read */
} RehomeBatch;

/* Forward: source to target. */
extern bool rehome_forward_try(RehomeConn *conn, RehomeSlice *slice, List *maps,
							   bool locked, bool alone, List *kept, RehomeBatch *batch);
extern void rehome_forward_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
								 bool keep_open, List *kept, RehomeBatch *batch);
extern void rehome_forward_retry(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map,
								 const char *rule, int64 *asked, int64 *refused);
extern bool rehome_forward_stale(RehomeConn *conn, RehomeTableMap *map);
extern void rehome_forward_hold(RehomeConn *conn, RehomeTableMap *map, const char *doing);
extern void rehome_forward_let_go(RehomeConn *conn, RehomeTableMap *map, const char *doing);
extern void rehome_forward_mark(List *maps);
extern void rehome_forward_prune(RehomeConn *conn, RehomeSlice *slice, List *maps,
								 const char *position);

/* Reverse: target to source. */
extern char *rehome_reverse_reached(RehomeConn *conn, RehomeSlice *slice);
extern bool rehome_reverse_inspect(RehomeConn *conn, RehomeSlice *slice, List *maps, bool source);
extern List *rehome_reverse_inspected(RehomeCall *call, RehomeConn *conn, RehomeSlice *slice,
									  List *maps, const char *doing);
extern int64 rehome_reverse_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
								  Snapshot snapshot, bool keep_open, bool *uncovered);
extern char *rehome_new_home(RehomeMigration *migration);
pg_noreturn extern void rehome_raise_both(RehomeSlice *slice);
extern void rehome_reverse_prune(RehomeSlice *slice, List *maps, const char *position);
extern char *rehome_reverse_position(RehomeConn *conn, RehomeSlice *slice, List *ask, List *maps);

#endif							/* REHOME_APPLY_H */
