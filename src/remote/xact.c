/*-------------------------------------------------------------------------
 *
 * xact.c
 *	  What becomes of connections to the source when a local transaction ends.
 *
 * Most remote transactions are begun and ended by the code that needs them.
 * Two are tied to the local commit, because authority moves with them:
 *
 *	- cutover: the source gives authority up.  Its transaction (fence on)
 *	  commits at the local XACT_EVENT_PRE_COMMIT, then the local one commits.
 *	  When the local commit fails after all, the fence is taken down again at
 *	  once (undo); should that fail too, rehome.recover() does it later.
 *	- rollback: the target gives authority up.  The local transaction commits,
 *	  then, at XACT_EVENT_COMMIT, the remote one does (fence off).  Nothing may
 *	  be raised there any more: a failure is a WARNING, and recover finishes.
 *
 * On abort every connection is thrown away, with its transaction: the source
 * rolls back.  So no connection is ever reused after an error, and none is
 * left open by one.  The same holds for subtransactions, so that ROLLBACK TO
 * SAVEPOINT takes a cutover back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "remote/connection_private.h"
#include "util/debug_point.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long a transaction callback waits for the source, in milliseconds. */
#define CALLBACK_TIMEOUT 30000

static dlist_head connections = DLIST_STATIC_INIT(connections);

/*
 * rehome_conn_remember adds a connection to the list of open ones.
 */
void
rehome_conn_remember(RehomeConn *conn)
{
	dlist_push_tail(&connections, &conn->node);
}

void
rehome_conn_forget(RehomeConn *conn)
{
	dlist_delete(&conn->node);
}

/*
 * rehome_conn_close_all closes whatever is open.  It is for who catches an error
 * that may have been raised outside of a transaction, where there is no abort
 * to do it.
 */
void
rehome_conn_close_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &connections)
		rehome_conn_close(dlist_container(RehomeConn, node, iter.cur));
}

/*
 * rehome_conn_commit_before_local hands the open transaction to the local
 * commit, which it precedes.  undo is SQL that takes it back; slice is the ID of
 * the one whose authority moves.
 */
void
rehome_conn_commit_before_local(RehomeConn *conn, int slice, const char *undo)
{
	Assert(conn->xact_level > 0);
	conn->ending = REHOME_END_BEFORE_LOCAL;
	conn->slice = slice;
	conn->undo = MemoryContextStrdup(TopMemoryContext, undo);
}

/*
 * rehome_conn_commit_after_local hands the open transaction to the local
 * commit, which it follows.  tail is SQL run right before its COMMIT.
 */
void
rehome_conn_commit_after_local(RehomeConn *conn, int slice, const char *tail)
{
	Assert(conn->xact_level > 0);
	conn->ending = REHOME_END_AFTER_LOCAL;
	conn->slice = slice;
	conn->tail = MemoryContextStrdup(TopMemoryContext, tail);
}

/*
 * rehome_conn_moves tells whether authority over a slice moves when the local
 * transaction commits.  What is asked of the source before would wait, for ever,
 * for the transaction there that does it.
 */
bool
rehome_conn_moves(int slice)
{
	dlist_iter	iter;

	dlist_foreach(iter, &connections)
	{
		RehomeConn *conn = dlist_container(RehomeConn, node, iter.cur);

		if (conn->ending != REHOME_END_EXPLICIT && conn->slice == slice)
			return true;
	}
	return false;
}

/*
 * run_bounded runs SQL without raising; returns NULL or what went wrong,
 * palloc'd.
 */
static char *
run_bounded(RehomeConn *conn, const char *sql)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   CALLBACK_TIMEOUT);
	PGresult   *result;
	ExecStatusType status;
	char	   *reason = NULL;

	if (!PQsendQuery(conn->pg, sql))
		return pchomp(PQerrorMessage(conn->pg));
	result = rehome_conn_flush(conn, deadline) ? rehome_conn_result(conn, deadline) : NULL;
	status = PQresultStatus(result);
	if (result == NULL)
		reason = pstrdup("the source did not answer");
	else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		reason = pchomp(PQresultErrorMessage(result));
	else if (rehome_conn_rolled_back(result))
		reason = pstrdup("the source rolled back instead of committing");
	PQclear(result);
	return reason;
}

static void
commit_before_local(RehomeConn *conn)
{
	char	   *reason;

	rehome_debug_point("before-remote-commit");

	/*
	 * Who cancels us is too late when the COMMIT is on its way: without its
	 * answer nobody would know who has authority, and nothing could be taken
	 * back.  So this wait, bounded by CALLBACK_TIMEOUT, is one that cannot be
	 * interrupted, but by the end of the postmaster; and what the source has
	 * committed is best committed here.
	 */
	CHECK_FOR_INTERRUPTS();
	HOLD_INTERRUPTS();
	conn->commit_sent = true;
	reason = run_bounded(conn, "COMMIT");
	conn->committed = reason == NULL;
	RESUME_INTERRUPTS();
	if (reason != NULL)
		ereport(ERROR,
				errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
				errmsg("the source did not confirm the commit: %s", reason),
				errhint("If the connection was lost, the source may be fenced: CALL rehome.recover() undoes it."));
	rehome_debug_point("after-remote-commit");
}

/*
 * commit_after_local runs when the local transaction is committed: it must
 * not raise.
 */
static void
commit_after_local(RehomeConn *conn)
{
	char	   *reason;

	conn->commit_sent = true;
	reason = run_bounded(conn, conn->tail);
	if (reason == NULL)
		reason = run_bounded(conn, "COMMIT");
	if (reason != NULL)
		ereport(WARNING,
				errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
				errmsg("authority has left this database, but the source has not confirmed it took over: %s",
					   reason),
				errhint("CALL rehome.recover();"));
}

/*
 * undo_remote runs when the local transaction aborts although the source may
 * have committed its half.
 */
static void
undo_remote(RehomeConn *conn)
{
	char	   *reason = NULL;

	if (conn->committed)
		reason = run_bounded(conn, conn->undo);
	else
		reason = pstrdup("the outcome of its commit is unknown");
	if (reason != NULL)
		ereport(WARNING,
				errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
				errmsg("the source may still be fenced: %s", reason),
				errhint("CALL rehome.recover();"));
}

static void
xact_callback(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;

	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		rehome_conn_limit(0);
	dlist_foreach_modify(iter, &connections)
	{
		RehomeConn *conn = dlist_container(RehomeConn, node, iter.cur);
		bool		tied = conn->ending != REHOME_END_EXPLICIT;

		switch (event)
		{
			case XACT_EVENT_PRE_COMMIT:
				if (conn->ending == REHOME_END_BEFORE_LOCAL && !conn->commit_sent)
					commit_before_local(conn);
				break;
			case XACT_EVENT_COMMIT:
				if (conn->ending == REHOME_END_AFTER_LOCAL)
					commit_after_local(conn);
				if (tied)
					rehome_conn_close(conn);
				break;
			case XACT_EVENT_PRE_PREPARE:
				if (tied)
					ereport(ERROR,
							errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("cannot PREPARE a transaction that moves authority"),
							errhint("COMMIT or ROLLBACK it."));
				break;
			case XACT_EVENT_ABORT:
				if (conn->ending == REHOME_END_BEFORE_LOCAL && conn->commit_sent)
					undo_remote(conn);
				rehome_conn_close(conn);
				break;
			default:
				break;
		}
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_mutable_iter iter;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	rehome_conn_limit_subxact(level, event == SUBXACT_EVENT_ABORT_SUB);
	dlist_foreach_modify(iter, &connections)
	{
		RehomeConn *conn = dlist_container(RehomeConn, node, iter.cur);

		if (event == SUBXACT_EVENT_ABORT_SUB)
		{
			if (conn->open_level >= level || conn->xact_level >= level)
				rehome_conn_close(conn);
		}
		else
		{
			if (conn->open_level >= level)
				conn->open_level = level - 1;
			if (conn->xact_level >= level)
				conn->xact_level = level - 1;
		}
	}
}

/*
 * rehome_conn_init registers the callbacks; called once, from _PG_init.
 */
void
rehome_conn_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
