/*-------------------------------------------------------------------------
 *
 * stated.h
 *	  Queries that somebody stated, to be run later with the owner's rights.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_STATED_H
#define REHOME_STATED_H

#include "util/call.h"
#include "util/spi.h"
#include "utils/elog.h"

/* Where and how such a query is run. */
typedef struct RehomeStated
{
	Oid			owner;			/* whose rights it runs with */
	const char *search_path;	/* as rehome_stated_path() gave it */
	int			timeout;		/* milliseconds; 0: none */
	bool		as_client;		/* with the planner settings a client would have */
} RehomeStated;

extern char *rehome_stated_path(RehomeCall *call);
extern char *rehome_stated_trim(const char *sql);
extern void rehome_stated_require_select(const char *sql, const char *what);
extern void rehome_stated_require_expression(const char *expression, const char *what);
extern int	rehome_stated_enter_writing(const RehomeStated *stated);
extern int	rehome_stated_enter(const RehomeStated *stated);
extern void rehome_stated_leave(int level);
extern RehomeRows *rehome_stated_run(const RehomeStated *stated, const char *sql,
									 const char *parameter);
extern ErrorData *rehome_stated_try(const RehomeStated *stated, const char *sql,
									const char *parameter, RehomeRows **rows);

#endif							/* REHOME_STATED_H */
