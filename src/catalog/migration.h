/*-------------------------------------------------------------------------
 *
 * migration.h
 *	  Migrations, slices and table maps as the catalogs hold them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_MIGRATION_H
#define REHOME_MIGRATION_H

#include "catalog/state.h"
#include "nodes/pg_list.h"
#include "util/call.h"
#include "util/name.h"
#include "utils/timestamp.h"

/*
 * Our locks are advisory locks in a space of their own: SQL's pg_advisory_lock
 * uses 1 and 2, so nobody else can take them.
 */
#define REHOME_LOCK_SPACE 3

typedef struct RehomeMigration
{
	int			id;
	char	   *name;
	char	   *server;			/* NULL: this database */
	Oid			serverid;		/* InvalidOid: this database, or it is gone */
	bool		live;			/* the source can be captured, synced, fenced */
	Oid			owner;
	char	   *token;
	char	   *home;
	char	   *source_id;
} RehomeMigration;

typedef struct RehomeSlice
{
	int			id;
	char	   *name;
	RehomeMigration *migration;
	RehomeState state;
	RehomeAuthority authority;
	bool		continuous;		/* a sync worker should be running */
	bool		one_way;		/* cut over without a way back */
	char	   *throttled;		/* why no work is begun, or NULL */
	bool		paused;			/* by somebody, or because it was restored */
	bool		restored;		/* this database is not where it last ran */
	char	   *reason;
	char	   *position;		/* txid_snapshot of the source, or NULL */
	char	   *reverse_position;	/* in cut_over, when rehome_reverse_inspect has
								 * asked the source: the target's snapshot that
								 * it has reached; else NULL */
	char	   *error;
	char	   *source_print;	/* fingerprint of the source's tables and triggers */
	char	   *target_print;	/* the same of the targets and the guard */
	int64		maps_version;	/* counts changes of its table maps */
	int64		copy_run;		/* counts the leaders of its copy */
	bool		lazy_position;	/* the position of an empty batch need not be stored */
} RehomeSlice;

/*
 * rehome_slice_ended tells whether nothing more will be done to a slice; its
 * tables may be gone.
 */
static inline bool
rehome_slice_ended(RehomeSlice *slice)
{
	return slice->state == REHOME_COMPLETED || slice->state == REHOME_CANCELLED;
}

/* What a rule is to whoever evaluates it. */
typedef enum RehomeColumnKind
{
	REHOME_COPY,				/* a column of the source as it is */
	REHOME_EXPRESSION,			/* computed */
	REHOME_SKIP					/* left out */
} RehomeColumnKind;

typedef struct RehomeColumnMap
{
	char	   *name;			/* target column */
	RehomeColumnKind kind;
	char	   *rule;			/* the kind, as rehome.add_rule() has it */
	char	   *expression;		/* NULL when skipped */
	char	   *inverse_column; /* source column the inverse restores, or NULL */
	char	   *inverse;
	char	   *on_error;		/* fail, null, default, quarantine; NULL: as the table has it */
} RehomeColumnMap;

/* What happens to writes to a target while the source has authority. */
typedef enum RehomeDriftPolicy
{
	REHOME_DRIFT_REJECT,
	REHOME_DRIFT_RECORD,
	REHOME_DRIFT_REPAIR
} RehomeDriftPolicy;

typedef struct RehomeTableMap
{
	int			id;
	int			slice_id;
	Oid			source;			/* foreign table, or a local relation */
	Oid			target;
	List	   *key;			/* char *, target columns */
	List	   *source_key;		/* char *, source columns, local names */
	List	   *source_equal;	/* char *, operators at the source; NIL before capture */
	char	   *source_parts;	/* partitions at the position; NULL: a plain table */
	char	   *source_bounds;	/* and their bounds */
	char	   *source_print;	/* fingerprint of table and triggers at the position */
	char	   *target_parts;	/* the target's partitions, after cutover at the position back */
	char	   *filter;
	RehomeDriftPolicy drift_policy;
	bool		paused;			/* left out of batches */
	char	   *reason;			/* why */
	char	   *position;		/* behind the slice's; NULL: the slice's */
	char	   *source_columns; /* the source table as it was last found */
	char	   *target_columns;
	bool		quarantine;		/* rows that are refused go there, unless a column says else */
	char		on_delete;		/* d(elete), m(ark), a(rchive), i(gnore) what is gone */
	char	   *delete_column;	/* what mark sets */
	Oid			delete_archive; /* where archive puts rows */
	bool		tracked;		/* keys that are touched are written down (touched.c) */
	int64		unpruned;		/* about how many rows batches have found since the last mark (forward.c) */
	int64		prune_due;		/* and up to it; 0: there is nothing to prune */
	List	   *columns;		/* RehomeColumnMap * */
} RehomeTableMap;

/* Reading.  All result in the current memory context. */
extern RehomeMigration *rehome_migration_get(const char *name);
extern RehomeMigration *rehome_migration_argument(FunctionCallInfo fcinfo);
extern RehomeMigration *rehome_migration_by_id(int id);
extern struct RehomeConn *rehome_migration_connect(RehomeMigration *migration, const char *purpose);
extern List *rehome_slices_get(RehomeMigration *migration, const char *slice);
extern RehomeSlice *rehome_slice_by_id(int id);
extern List *rehome_table_maps_get(RehomeSlice *slice);
extern List *rehome_table_maps_require(RehomeSlice *slice);
extern bool rehome_table_map_exists(RehomeTableMap *map);
extern RehomeTableMap *rehome_table_map_by_id(int id);
extern RehomeTableMap *rehome_table_map_of(RehomeMigration *migration, Oid target);
extern char *rehome_copied_column(RehomeColumnMap *column);
extern char *rehome_map_ids(List *maps);
extern char *rehome_map_source_parts(List *maps);
extern char *rehome_map_targets(List *maps);
extern bool rehome_key_is_unique(Oid target, List *key);

extern RehomeDriftPolicy rehome_drift_policy_parse(const char *name);
extern const char *rehome_drift_policy_name(RehomeDriftPolicy policy);

/* Which slices a call is about (slices.c). */
extern List *rehome_slices_named(RehomeMigration *migration, const char *slice);
extern List *rehome_slices_moved(RehomeMigration *migration, const char *slice);
extern bool rehome_slice_unused(RehomeSlice *slice);

/* Who may what. */
extern void rehome_require_owner(RehomeCall *call, RehomeMigration *migration);

/* What is legal now (legal.c). */
extern void rehome_slice_require(RehomeSlice *slice, const char *call,
								 RehomeState a, RehomeState b);
extern void rehome_slice_require_not_ended(RehomeSlice *slice, const char *call);
extern void rehome_slice_require_running(RehomeSlice *slice);
extern void rehome_slice_require_way_back(RehomeSlice *slice, const char *call);

/* Changing a slice. */
extern void rehome_slice_work_lock(RehomeSlice *slice);
extern void rehome_slice_work_wait(RehomeSlice *slice);
extern void rehome_slice_work_share(RehomeSlice *slice);
extern bool rehome_slice_try_work_lock(int slice_id);
extern void rehome_slice_reread(RehomeSlice *slice);
extern void rehome_slice_maps_changed(RehomeSlice *slice);
extern void rehome_slice_set_state(RehomeSlice *slice, RehomeState state, const char *kind,
								   const char *message, const char *detail);
extern void rehome_slice_set_position(RehomeSlice *slice, const char *position,
									  int64 rows, int64 pending);
extern bool rehome_slice_throttled(RehomeSlice *slice, const char *reason);
extern void rehome_slice_set_error(int slice_id, const char *message);

/* The log. */
extern int64 rehome_event(const char *migration, const char *slice, const char *kind,
						  const char *message, const char *detail);

extern int64 rehome_last_event(void);

#endif							/* REHOME_MIGRATION_H */
