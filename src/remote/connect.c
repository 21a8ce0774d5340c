/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  Making a connection to a PostgreSQL source, within connect_timeout.
 *
 * libpq itself minds connect_timeout only where it blocks, which a server
 * process must not do: cancel and shutdown have to work at once.  So a source
 * that accepts the connection and never answers is given up here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "libpq-fe.h"
#include "libpq/libpq-be-fe-helpers.h"
#include "miscadmin.h"
#include "remote/connection_private.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* How long a source may take to be told to cancel a statement, in milliseconds. */
#define CANCEL_TIMEOUT 2000

/*
 * connect_timeout returns how long a connection may take to be made, in
 * milliseconds; 0 when the options set no limit.  As in libpq it is for each
 * host, and at least two seconds.
 */
static long
connect_timeout(const char **keywords, const char **values)
{
	int			seconds = 0;
	int			hosts = 1;

	for (int i = 0; keywords[i] != NULL; i++)
	{
		if (strcmp(keywords[i], "connect_timeout") == 0 && !parse_int(values[i], &seconds, 0, NULL))
			ereport(ERROR,
					errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					errmsg("invalid value for option \"connect_timeout\": \"%s\"", values[i]),
					errhint("It is a number of seconds."));
		if (strcmp(keywords[i], "host") == 0)
			for (const char *c = values[i]; *c; c++)
				hosts += *c == ',';
	}
	return seconds <= 0 ? 0 : Max(seconds, 2) * 1000L * hosts;
}

/*
 * connected brings a connection that has been started to its end, good or
 * bad; false when it took longer than timeout milliseconds (0: no limit).
 */
static bool
connected(PGconn *pg, long timeout)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (PQstatus(pg) == CONNECTION_BAD)
		return true;
	while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		int			event = status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
		long		left = timeout == 0 ? 1000L : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		int			rc;

		if (left <= 0)
			return false;
		rc = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | event,
							   PQsocket(pg), left, REHOME_WAIT_EVENT);
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (rc & event)
			status = PQconnectPoll(pg);
	}
	return true;
}

/*
 * rehome_conn_establish connects; NULL, or why it could not, palloc'd.  What
 * there is of a connection is in conn, which is on the list of open ones.
 */
char *
rehome_conn_establish(RehomeConn *conn, const char **keywords, const char **values)
{
	long		timeout = connect_timeout(keywords, values);

	libpqsrv_connect_prepare();
	conn->pg = PQconnectStartParams(keywords, values, false);
	if (conn->pg == NULL)
	{
		ReleaseExternalFD();
		return pstrdup("out of memory");
	}
	if (!connected(conn->pg, timeout))
		return psprintf("The server did not answer within connect_timeout (%ld s).", timeout / 1000);
	return PQstatus(conn->pg) == CONNECTION_OK ? NULL : pchomp(PQerrorMessage(conn->pg));
}

/*
 * rehome_conn_params tells what a connection was made with; false when libpq
 * has no memory left.
 */
bool
rehome_conn_params(RehomeConn *conn, const char ***keywords, const char ***values)
{
	PQconninfoOption *options = PQconninfo(conn->pg);
	int			n = 0;

	if (options == NULL)
		return false;
	while (options[n].keyword != NULL)
		n++;
	*keywords = palloc0(sizeof(char *) * (n + 1));
	*values = palloc0(sizeof(char *) * (n + 1));
	n = 0;
	for (PQconninfoOption *option = options; option->keyword != NULL; option++)
		if (option->val != NULL)
		{
			(*keywords)[n] = pstrdup(option->keyword);
			(*values)[n++] = pstrdup(option->val);
		}
	PQconninfoFree(options);
	return true;
}

/*
 * rehome_conn_cancel has the statement cancelled that a connection, which is
 * about to be closed, is at.  A session of its own asks for it: PQcancel()
 * would wait for ever for a server that hangs, and nobody could end us.  When
 * that does not succeed, the source notices later that we are gone.
 */
void
rehome_conn_cancel(RehomeConn *conn)
{
	const char **keywords;
	const char **values;
	PGconn	   *pg;

	if (!rehome_conn_params(conn, &keywords, &values) || !AcquireExternalFD())
		return;
	HOLD_INTERRUPTS();
	pg = PQconnectStartParams(keywords, values, false);
	if (pg == NULL)
		ReleaseExternalFD();
	else
	{
		/* once it is sent it is carried out, whether we are here or not */
		if (connected(pg, CANCEL_TIMEOUT) && PQstatus(pg) == CONNECTION_OK)
			(void) PQsendQuery(pg, psprintf("SELECT pg_catalog.pg_cancel_backend(%d)", PQbackendPID(conn->pg)));
		libpqsrv_disconnect(pg);
	}
	RESUME_INTERRUPTS();
}
