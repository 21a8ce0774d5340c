/*-------------------------------------------------------------------------
 *
 * call.h
 *	  The frame in which every SQL entry point and every worker runs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_CALL_H
#define REHOME_CALL_H

#include "fmgr.h"
#include "utils/builtins.h"

/* An argument of a SQL function, of type text or name; NULL for null. */
#define REHOME_ARG_TEXT(n) (PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n)))
#define REHOME_ARG_NAME(n) (PG_ARGISNULL(n) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(n))))

typedef struct RehomeCall
{
	bool		nonatomic;		/* may commit and go on in a new transaction */
	bool		wrote_before;	/* the caller's transaction has written already */
	Oid			caller;			/* who called */
	Oid			saved_user;		/* restored by the end */
	int			saved_context;
	int			guc_level;
	int			outer_commit_mode;	/* of the frame this one is called from, if any */
	bool		pushed_snapshot;	/* there was none: we run outside a portal */
	char	   *search_path;	/* the caller's, for expressions being defined */
	MemoryContext context;		/* current before the frame, and inside it */
} RehomeCall;

/* A piece of work done as somebody else, inside a frame. */
typedef struct RehomeAs
{
	Oid			user;
	int			context;
	int			guc_level;
} RehomeAs;

extern void rehome_call_begin(RehomeCall *call, FunctionCallInfo fcinfo);
extern void rehome_call_commit(RehomeCall *call);
extern void rehome_call_rest(RehomeCall *call);
extern void rehome_call_end(RehomeCall *call);
extern void rehome_call_require_nonatomic(RehomeCall *call, const char *what);
extern void rehome_call_require_unwritten(RehomeCall *call, const char *what);
extern void rehome_call_commit_written(RehomeCall *call);
extern void rehome_commit_durably(void);
extern void rehome_commit_lazily(void);

extern Oid	rehome_catalog_owner(void);
extern void rehome_become(RehomeAs *as, Oid role);
extern void rehome_become_catalog_owner(RehomeAs *as);
extern void rehome_become_self(RehomeAs *as);

#endif							/* REHOME_CALL_H */
