/*-------------------------------------------------------------------------
 *
 * errors.h
 *	  SQLSTATEs of pg_rehome's own, class RH.  Everything PostgreSQL has a
 *	  code for is raised with PostgreSQL's code; these are the situations
 *	  only a migration can be in.  doc/reference.md lists them all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_ERRORS_H
#define REHOME_ERRORS_H

#include "utils/elog.h"

/*
 * Where a DETAIL names who is in the way, a line of its own says what he runs,
 * "a" being pg_stat_activity.  It is told to whoever waits; what is put on
 * record for others to read is without it (catalog/redaction.c).
 */
#define REHOME_RUNNING_MARK "  running: "
#define REHOME_RUNNING_SQL \
	"coalesce(E'\\n" REHOME_RUNNING_MARK "' || nullif(btrim(regexp_replace(left(a.query, 200), '[[:space:]]+', ' ', 'g')), ''), '')"

/* A lock (l) is held by a prepared transaction (x), which is nobody's session. */
#define REHOME_IS_PREPARED_SQL \
	"l.pid IS NULL AND EXISTS (SELECT FROM pg_locks t WHERE t.locktype = 'transactionid' AND t.granted AND t.pid IS NULL" \
	" AND t.virtualtransaction = l.virtualtransaction AND t.transactionid = x.transaction)"

/* the slice is in a state from which the request is not legal */
#define ERRCODE_REHOME_ILLEGAL_STATE		MAKE_SQLSTATE('R','H','0','0','1')
/* preflight found something that stands in the way */
#define ERRCODE_REHOME_PREFLIGHT			MAKE_SQLSTATE('R','H','0','0','2')
/* a cutover gate is not green */
#define ERRCODE_REHOME_GATE					MAKE_SQLSTATE('R','H','0','0','3')
/* the source's tables could not be locked in time */
#define ERRCODE_REHOME_LOCK_TIMEOUT			MAKE_SQLSTATE('R','H','0','0','4')
/* the write freeze lasted longer than rehome.freeze_timeout */
#define ERRCODE_REHOME_FREEZE_TIMEOUT		MAKE_SQLSTATE('R','H','0','0','5')
/* the change log no longer reaches back to the position, or is not ours */
#define ERRCODE_REHOME_POSITION_LOST		MAKE_SQLSTATE('R','H','0','0','6')
/* a copy did not finish */
#define ERRCODE_REHOME_COPY_INCOMPLETE		MAKE_SQLSTATE('R','H','0','0','7')
/* the two sides disagree about who has authority */
#define ERRCODE_REHOME_IN_DOUBT				MAKE_SQLSTATE('R','H','0','0','8')
/* the slice is paused */
#define ERRCODE_REHOME_PAUSED				MAKE_SQLSTATE('R','H','0','0','9')
/* a rule refuses a value */
#define ERRCODE_REHOME_REFUSED				MAKE_SQLSTATE('R','H','0','1','0')

#endif							/* REHOME_ERRORS_H */
