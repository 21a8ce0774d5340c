/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  A libpq connection to a PostgreSQL source: ask it things.
 *
 * It is opened in remote/connect.c; COPY is in remote/copy_stream.c.
 *
 * Waits go through the latch, so that cancel and shutdown work at once, those
 * for the source to take a statement included: libpq never blocks.
 * Every result is copied into palloc'd memory and cleared immediately;
 * nothing of libpq's is left behind when an error is raised.  What happens
 * to a connection when the local transaction ends is in remote/xact.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "errors.h"
#include "guc.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "remote/connection_private.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

void		(*rehome_conn_wait_hook) (void) = NULL;

/* When a freeze has lasted long enough; 0: writers wait for nobody. */
static TimestampTz freeze_ends = 0;
static int	freeze_level = 0;	/* nest level of the transaction that froze */

/*
 * rehome_conn_version returns the source's version number, as 150004.
 */
int
rehome_conn_version(RehomeConn *conn)
{
	return PQserverVersion(conn->pg);
}

/*
 * rehome_conn_limit has the rest of the transaction raise when it still waits
 * for a source at a time: writers wait for it.  0 takes that back, as the end
 * of the transaction does.
 */
void
rehome_conn_limit(TimestampTz at)
{
	freeze_ends = at;
	freeze_level = GetCurrentTransactionNestLevel();
}

/*
 * rehome_conn_limit_subxact is told that the subtransaction of a nest level
 * ends.  Work that may fail does not take the limit back when it does.
 */
void
rehome_conn_limit_subxact(int level, bool aborted)
{
	if (freeze_level < level)
		return;
	if (aborted)
		rehome_conn_limit(0);
	freeze_level = level - 1;
}

/*
 * rehome_conn_wait waits until the source has something for us (wanted is
 * WL_SOCKET_READABLE), or takes something from us as well.  With a
 * deadline (in a transaction callback, where interrupts are held) it gives
 * up when that has passed and returns false.
 */
bool
rehome_conn_wait(RehomeConn *conn, uint32 wanted, TimestampTz deadline)
{
	static TimestampTz looked = 0;
	long		timeout = 1000L;
	bool		nothing;
	WaitEvent	event;

	if (deadline != 0)
	{
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (timeout <= 0)
			return false;
	}
	else if (freeze_ends != 0)
		timeout = Min(timeout, Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), freeze_ends), 0L));
	if (conn->socket_wanted != wanted)
	{
		ModifyWaitEvent(conn->events, conn->socket_event, wanted, NULL);
		conn->socket_wanted = wanted;
	}
	nothing = WaitEventSetWait(conn->events, timeout, &event, 1, REHOME_WAIT_EVENT) == 0;
	if (nothing && deadline == 0 && freeze_ends != 0 && GetCurrentTimestamp() >= freeze_ends)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_FREEZE_TIMEOUT),
				errmsg("writers would have waited longer than rehome.freeze_timeout (%d ms)",
					   rehome_freeze_timeout),
				errdetail("The source does not answer. They go on as if nothing had been."),
				errhint("Try again at a quieter time, or raise rehome.freeze_timeout."));
	if (!nothing && (event.events & WL_LATCH_SET))
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	/* a source that always has something for us does not make us wait */
	if (deadline == 0 && rehome_conn_wait_hook != NULL &&
		(nothing || TimestampDifferenceExceeds(looked, GetCurrentTimestamp(), 1000)))
	{
		looked = GetCurrentTimestamp();
		rehome_conn_wait_hook();
	}
	return true;
}

/*
 * rehome_conn_result returns the last result of the statement sent, or the
 * COPY result that follows; NULL when the deadline passed or the connection
 * broke.  The caller clears it.
 */
PGresult *
rehome_conn_result(RehomeConn *conn, TimestampTz deadline)
{
	PGresult   *volatile last = NULL;

	PG_TRY();
	{
		for (;;)
		{
			PGresult   *result;

			while (PQisBusy(conn->pg))
			{
				if (!rehome_conn_wait(conn, WL_SOCKET_READABLE, deadline) ||
					!PQconsumeInput(conn->pg))
				{
					PQclear(last);
					last = NULL;
					goto done;
				}
			}
			result = PQgetResult(conn->pg);
			if (result == NULL)
				break;
			PQclear(last);
			last = result;
			if (PQresultStatus(result) == PGRES_COPY_OUT ||
				PQresultStatus(result) == PGRES_COPY_IN)
				break;
		}
done:	;
	}
	PG_CATCH();
	{
		PQclear(last);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return last;
}

/*
 * rehome_conn_fill_error copies what the source said (or that it said nothing) into the
 * current memory context and clears the result.
 */
void
rehome_conn_fill_error(RehomeConn *conn, PGresult *result, RehomeRemoteError *error)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	strlcpy(error->sqlstate, sqlstate ? sqlstate : "08006", sizeof(error->sqlstate));
	error->message = message ? pstrdup(message) : pchomp(PQerrorMessage(conn->pg));
	if (error->message[0] == '\0')
		error->message = pstrdup("connection to the source was lost");
	error->detail = detail ? pstrdup(detail) : NULL;
	error->hint = hint ? pstrdup(hint) : NULL;
	PQclear(result);
}

/*
 * rehome_conn_rolled_back tells whether the answer to a COMMIT is that there was
 * nothing left to be committed.
 */
bool
rehome_conn_rolled_back(PGresult *result)
{
	return PQresultStatus(result) == PGRES_COMMAND_OK && strcmp(PQcmdStatus(result), "ROLLBACK") == 0;
}

/*
 * rehome_conn_raise raises what the source said as a local error, with the
 * source's SQLSTATE.
 */
void
rehome_conn_raise(RehomeConn *conn, const RehomeRemoteError *error, const char *sql)
{
	const char *s = error->sqlstate;
	const char *hint = error->hint;

	/* undefined schema, table or function */
	if (hint == NULL && strstr(error->message, "rehome_source") != NULL &&
		(strcmp(s, "3F000") == 0 || strcmp(s, "42P01") == 0 || strcmp(s, "42883") == 0))
		hint = "What pg_rehome made at the source was removed: CALL rehome.cancel() and begin again.";
	/* insufficient privilege */
	if (hint == NULL && strcmp(s, "42501") == 0 && strstr(error->message, "rehome_source") != NULL)
		hint = "What pg_rehome made at the source belongs to the role that made it: GRANT that role to the one of the user mapping, or connect as that role again.";
	/* lock not available */
	if (hint == NULL && strcmp(s, "55P03") == 0)
		hint = psprintf("Someone at the source holds a lock for longer than rehome.lock_timeout (now %d ms). Try again when that has ended.",
						rehome_lock_timeout);
	ereport(ERROR,
			errcode(MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4])),
			errmsg("source: %s", error->message),
			error->detail ? errdetail_internal("%s", error->detail) : 0,
			hint ? errhint("%s", hint) : 0,
			sql ? errcontext("remote SQL: %s", pnstrdup(sql, 2000)) : 0);
}

/*
 * rehome_conn_take_rows copies a result's rows and clears it; a refusal goes to *error.
 */
RehomeRows *
rehome_conn_take_rows(RehomeConn *conn, PGresult *result, RehomeRemoteError *error)
{
	ExecStatusType status = PQresultStatus(result);
	RehomeRows *rows;

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
	{
		rehome_conn_fill_error(conn, result, error);
		return NULL;
	}
	rows = palloc0(sizeof(RehomeRows));
	rows->n = PQntuples(result);
	rows->nfields = PQnfields(result);
	rows->processed = strtoull(PQcmdTuples(result), NULL, 10);
	rows->value = palloc(sizeof(char **) * Max(rows->n, 1));
	for (int r = 0; r < rows->n; r++)
	{
		rows->value[r] = palloc(sizeof(char *) * rows->nfields);
		for (int c = 0; c < rows->nfields; c++)
			rows->value[r][c] = PQgetisnull(result, r, c) ? NULL :
				pstrdup(PQgetvalue(result, r, c));
	}
	PQclear(result);
	return rows;
}

/*
 * rehome_conn_check_sent raises when a statement could not even be handed to libpq.
 */
void
rehome_conn_check_sent(RehomeConn *conn, int sent, const char *sql)
{
	if (!sent)
	{
		RehomeRemoteError error = {"08006", pchomp(PQerrorMessage(conn->pg)), NULL, NULL};

		rehome_conn_raise(conn, &error, sql);
	}
}

/*
 * rehome_conn_flush waits until the kernel has taken all that libpq holds for
 * the source; false when the deadline passed or the connection broke.
 */
bool
rehome_conn_flush(RehomeConn *conn, TimestampTz deadline)
{
	int			rc;

	while ((rc = PQflush(conn->pg)) > 0)
		if (!rehome_conn_wait(conn, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE, deadline) ||
			!PQconsumeInput(conn->pg))
			return false;
	return rc == 0;
}

/*
 * rehome_conn_hand_over sees a statement on its way that was handed to libpq:
 * one that the socket has no room for is not sent by itself.
 */
void
rehome_conn_hand_over(RehomeConn *conn, int sent, const char *sql)
{
	rehome_conn_check_sent(conn, sent && rehome_conn_flush(conn, 0), sql);
}

/*
 * rehome_conn_exec runs one or more statements without parameters and
 * returns the rows of the last.
 */
RehomeRows *
rehome_conn_exec(RehomeConn *conn, const char *sql)
{
	RehomeRemoteError error;
	RehomeRows *rows;

	rehome_conn_hand_over(conn, PQsendQuery(conn->pg, sql), sql);
	rows = rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error);
	if (rows == NULL)
		rehome_conn_raise(conn, &error, sql);
	return rows;
}

/*
 * rehome_conn_send starts a statement whose rows rehome_conn_receive() will
 * wait for, so that both sides work meanwhile.
 */
void
rehome_conn_send(RehomeConn *conn, const char *sql)
{
	rehome_conn_hand_over(conn, PQsendQuery(conn->pg, sql), sql);
}

RehomeRows *
rehome_conn_receive(RehomeConn *conn)
{
	RehomeRemoteError error;
	RehomeRows *rows = rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error);

	if (rows == NULL)
		rehome_conn_raise(conn, &error, NULL);
	return rows;
}

/*
 * rehome_conn_try runs a statement that may be refused: NULL, with *error
 * filled in, when it was.
 */
RehomeRows *
rehome_conn_try(RehomeConn *conn, const char *sql, RehomeRemoteError *error)
{
	rehome_conn_hand_over(conn, PQsendQuery(conn->pg, sql), sql);
	return rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), error);
}

/*
 * collect_params renders parameters as libpq wants them.
 */
static const char **
collect_params(const char *signature, va_list args)
{
	int			n = (int) strlen(signature);
	const char **values = palloc0(sizeof(char *) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		switch (signature[i])
		{
			case 'i':
				values[i] = psprintf("%d", va_arg(args, int));
				break;
			case 'l':
				values[i] = psprintf(INT64_FORMAT, va_arg(args, int64));
				break;
			case 'o':
				values[i] = psprintf("%u", va_arg(args, Oid));
				break;
			case 'b':
				values[i] = va_arg(args, int) ? "t" : "f";
				break;
			case 't':
				values[i] = va_arg(args, const char *);
				break;
			default:
				elog(ERROR, "unknown parameter letter \"%c\"", signature[i]);
		}
	}
	return values;
}

static RehomeRows *
query(RehomeConn *conn, const char *sql, const char *signature, va_list args)
{
	const char **values = collect_params(signature, args);
	RehomeRemoteError error;
	RehomeRows *rows;

	rehome_conn_hand_over(conn, PQsendQueryParams(conn->pg, sql, (int) strlen(signature), NULL,
													values, NULL, NULL, 0), sql);
	rows = rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error);
	if (rows == NULL)
		rehome_conn_raise(conn, &error, sql);
	return rows;
}

/*
 * rehome_conn_query runs one statement with parameters.
 */
RehomeRows *
rehome_conn_query(RehomeConn *conn, const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = query(conn, sql, signature, args);
	va_end(args);
	return rows;
}

/*
 * rehome_conn_query_prepared does the same with a statement the source keeps
 * planned.  A connection has one: another text takes its place.
 */
RehomeRows *
rehome_conn_query_prepared(RehomeConn *conn, const char *sql, const char *signature,...)
{
	va_list		args;
	const char **values;
	RehomeRemoteError error;
	RehomeRows *rows;

	if (conn->prepared == NULL || strcmp(conn->prepared, sql) != 0)
	{
		if (conn->prepared != NULL)
		{
			rehome_conn_exec(conn, "DEALLOCATE rehome");
			pfree(conn->prepared);
			conn->prepared = NULL;
		}
		rehome_conn_hand_over(conn, PQsendPrepare(conn->pg, "rehome", sql, 0, NULL), sql);
		if (rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error) == NULL)
			rehome_conn_raise(conn, &error, sql);
		conn->prepared = MemoryContextStrdup(TopMemoryContext, sql);
	}
	va_start(args, signature);
	values = collect_params(signature, args);
	va_end(args);
	rehome_conn_hand_over(conn, PQsendQueryPrepared(conn->pg, "rehome", (int) strlen(signature),
													  values, NULL, NULL, 0), sql);
	rows = rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error);
	if (rows == NULL)
		rehome_conn_raise(conn, &error, sql);
	return rows;
}

/*
 * rehome_conn_value runs one statement that must give exactly one row, and
 * returns its first column as text, or NULL.
 */
char *
rehome_conn_value(RehomeConn *conn, const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = query(conn, sql, signature, args);
	va_end(args);
	if (rows->n != 1)
		elog(ERROR, "expected one row from \"%s\", got %d", sql, rows->n);
	return rows->value[0][0];
}

/*
 * rehome_conn_begin opens a transaction; modes as after BEGIN, or "".
 */
void
rehome_conn_begin(RehomeConn *conn, const char *modes)
{
	Assert(conn->xact_level == 0);
	conn->xact_level = GetCurrentTransactionNestLevel();
	rehome_conn_exec(conn, psprintf("BEGIN %s", modes));
}

/*
 * rehome_conn_begin_read opens a transaction that reads from one snapshot, and
 * waits for locks no longer than rehome.lock_timeout: who has the one may be
 * waiting for one that we have.  If another session of ours has it, that is a
 * deadlock that nobody sees.
 */
void
rehome_conn_begin_read(RehomeConn *conn)
{
	rehome_conn_begin(conn, psprintf("ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL lock_timeout = %d",
									 rehome_lock_timeout));
}

/*
 * rehome_conn_commit commits the transaction, or raises: a source answers the
 * COMMIT of one that has failed with ROLLBACK, which is no error to it.
 */
void
rehome_conn_commit(RehomeConn *conn)
{
	RehomeRemoteError error;
	PGresult   *result;
	bool		undone;

	rehome_conn_hand_over(conn, PQsendQuery(conn->pg, "COMMIT"), "COMMIT");
	result = rehome_conn_result(conn, 0);
	undone = rehome_conn_rolled_back(result);
	if (rehome_conn_take_rows(conn, result, &error) == NULL)
		rehome_conn_raise(conn, &error, "COMMIT");
	conn->xact_level = 0;
	if (undone)
		ereport(ERROR,
				errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				errmsg("the source rolled back instead of committing"));
}

void
rehome_conn_rollback(RehomeConn *conn)
{
	rehome_conn_exec(conn, "ROLLBACK");
	conn->xact_level = 0;
}

/*
 * rehome_conn_describe asks for the types (base types, of domains) and type
 * modifiers of the nfields columns that a query returns.  The source locks
 * what the query reads until the end of its transaction.
 */
void
rehome_conn_describe(RehomeConn *conn, const char *sql, int nfields, Oid **types, int **typmods)
{
	RehomeRemoteError error;
	PGresult   *result;

	rehome_conn_hand_over(conn, PQsendPrepare(conn->pg, "", sql, 0, NULL), sql);
	if (rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error) == NULL)
		rehome_conn_raise(conn, &error, sql);
	*types = palloc(sizeof(Oid) * Max(nfields, 1));
	*typmods = palloc(sizeof(int) * Max(nfields, 1));
	rehome_conn_hand_over(conn, PQsendDescribePrepared(conn->pg, ""), sql);
	result = rehome_conn_result(conn, 0);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
	{
		rehome_conn_fill_error(conn, result, &error);
		rehome_conn_raise(conn, &error, sql);
	}
	for (int i = 0; i < Min(nfields, PQnfields(result)); i++)
	{
		(*types)[i] = PQftype(result, i);
		(*typmods)[i] = PQfmod(result, i);
	}
	if (PQnfields(result) != nfields)
	{
		int			n = PQnfields(result);

		PQclear(result);
		elog(ERROR, "expected %d columns from \"%s\", got %d", nfields, sql, n);
	}
	PQclear(result);
}
