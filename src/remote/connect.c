/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  Making a connection to a PostgreSQL source, within connect_timeout, and
 *	  ending it.
 *
 * A connection takes every option postgres_fdw would pass to libpq from the
 * foreign server and the user mapping, and keeps its rule that a role which
 * is no superuser has to authenticate with a password.  The remote session
 * is pinned once, at connect, to the settings of util/call.c.
 *
 * libpq itself minds connect_timeout only where it blocks, which a server
 * process must not do: cancel and shutdown have to work at once.  So a source
 * that accepts the connection and never answers is given up here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "compat.h"
#include "foreign/foreign.h"
#include "libpq-fe.h"
#include "libpq/libpq-be-fe-helpers.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "remote/connection_private.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* How long a source may take to be told to cancel a statement, in milliseconds. */
#define CANCEL_TIMEOUT 2000

/*
 * What every session at a source begins with.  Values come as text that does
 * not depend on the server's settings.  Pages are taken for cheap because
 * nearly all that sync asks for it asks for by key, in the order of the keys:
 * most pages are those it has just had, and a planner cannot know.  Should this
 * server or the network be lost, the source finds out within a minute, and
 * lets go of what the session holds.
 */
static const char *const session_settings =
"SET search_path = pg_catalog;"
"SET TimeZone = 'UTC';"
"SET DateStyle = 'ISO, YMD';"
"SET IntervalStyle = 'postgres';"
"SET extra_float_digits = 3;"
"SET bytea_output = 'hex';"
"SET xmloption = content;"
"SET standard_conforming_strings = on;"
"SET lc_monetary = 'C';"
"SET lc_numeric = 'C';"
"SET lc_time = 'C';"
"SET default_transaction_isolation = 'read committed';"
"SET default_transaction_read_only = off;"
"SET array_nulls = on;"
"SET quote_all_identifiers = off;"
"SET row_security = off;"
"SET synchronous_commit = on;"
"SET client_min_messages = error;"
"SET random_page_cost = 0.1;"
"SET max_parallel_workers_per_gather = 0;"
"SET statement_timeout = 0;"
"SET lock_timeout = 0;"
"SET idle_in_transaction_session_timeout = 0;"
"SET tcp_keepalives_idle = 30;"
"SET tcp_keepalives_interval = 10;"
"SET tcp_keepalives_count = 3";

/* What servers have had since some version. */
static const struct
{
	int			since;
	const char *setting;
}			later_settings[] =
{
	{110000, "SET jit = off"},
	{140000, "SET idle_session_timeout = 0"},
	{170000, "SET transaction_timeout = 0"},
};

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
 * establish connects; NULL, or why it could not, palloc'd.  What
 * there is of a connection is in conn, which is on the list of open ones.
 */
static char *
establish(RehomeConn *conn, const char **keywords, const char **values)
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
 * params_of tells what a connection was made with; false when libpq
 * has no memory left.
 */
static bool
params_of(RehomeConn *conn, const char ***keywords, const char ***values)
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

	if (!params_of(conn, &keywords, &values) || !AcquireExternalFD())
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

/*
 * add_options appends those options of the list that libpq knows.
 */
static int
add_options(List *options, const PQconninfoOption *known,
			const char **keywords, const char **values, int n)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		for (const PQconninfoOption *opt = known; opt->keyword; opt++)
		{
			/*
			 * As postgres_fdw: debug options are not for SQL to set, and the
			 * session's encoding and name are ours.
			 */
			if (strcmp(opt->keyword, def->defname) != 0 ||
				strchr(opt->dispchar, 'D') != NULL ||
				strcmp(opt->keyword, "client_encoding") == 0 ||
				strcmp(opt->keyword, "fallback_application_name") == 0)
				continue;
			keywords[n] = def->defname;
			values[n] = defGetString(def);
			n++;
			break;
		}
	}
	return n;
}

/*
 * password_rule tells whether the role may connect without a password: it is
 * a superuser, or a superuser said password_required 'false' on its mapping.
 */
static bool
password_optional(UserMapping *user, Oid roleid)
{
	ListCell   *lc;

	if (superuser_arg(roleid))
		return true;
	foreach(lc, user->options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "password_required") == 0)
			return !defGetBoolean(def);
	}
	return false;
}

static bool
has_password(const char **keywords, const char **values)
{
	for (int i = 0; keywords[i] != NULL; i++)
		if (strcmp(keywords[i], "password") == 0 && values[i][0] != '\0')
			return true;
	return false;
}

/*
 * make_events sets up what all waits for this connection use.
 */
static void
make_events(RehomeConn *conn)
{
	conn->events = RehomeCreateWaitEventSet(TopMemoryContext, 3);
	AddWaitEventToSet(conn->events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(conn->events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	conn->socket_wanted = WL_SOCKET_READABLE;
	conn->socket_event = AddWaitEventToSet(conn->events, conn->socket_wanted,
										   PQsocket(conn->pg), NULL, NULL);
}

/*
 * rehome_user_mapping returns a role's user mapping for a server, or raises.
 */
UserMapping *
rehome_user_mapping(Oid roleid, ForeignServer *server)
{
	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(roleid), ObjectIdGetDatum(server->serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(server->serverid)))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("role \"%s\" has no user mapping for server \"%s\"",
					   GetUserNameFromId(roleid, false), server->servername),
				errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (user '...', password '...');",
						quote_identifier(GetUserNameFromId(roleid, false)),
						quote_identifier(server->servername)));
	return GetUserMapping(roleid, server->serverid);
}

/*
 * connect_with connects; NULL, and why in *reason, when that does not succeed.
 */
static RehomeConn *
connect_with(const char **keywords, const char **values, char **reason)
{
	RehomeConn *conn = MemoryContextAllocZero(TopMemoryContext, sizeof(RehomeConn));

	conn->open_level = GetCurrentTransactionNestLevel();
	rehome_conn_remember(conn);
	*reason = establish(conn, keywords, values);
	if (*reason == NULL)
		return conn;
	rehome_conn_close(conn);
	return NULL;
}

/*
 * begin_session makes a new connection ready for use.
 */
static void
begin_session(RehomeConn *conn)
{
	make_events(conn);
	/* in poll() nobody could interrupt us */
	rehome_conn_check_sent(conn, PQsetnonblocking(conn->pg, 1) == 0, NULL);
	rehome_conn_exec(conn, session_settings);
	for (int i = 0; i < lengthof(later_settings); i++)
		if (PQserverVersion(conn->pg) >= later_settings[i].since)
			rehome_conn_exec(conn, later_settings[i].setting);
	if (PQserverVersion(conn->pg) >= 140000)
	{
		RehomeRemoteError ignored;	/* not every platform has it */

		conn->self_ending = rehome_conn_try(conn, "SET client_connection_check_interval = '200ms'", &ignored) != NULL;
	}
}

/*
 * rehome_conn_open connects to the server with the role's user mapping.
 * purpose ends up in the source's pg_stat_activity.  The connection lives
 * until rehome_conn_close(), or until the local transaction aborts.
 */
RehomeConn *
rehome_conn_open(Oid serverid, Oid roleid, const char *purpose)
{
	ForeignServer *server = GetForeignServer(serverid);
	UserMapping *user = rehome_user_mapping(roleid, server);
	PQconninfoOption *known = PQconndefaults();
	const char **keywords;
	const char **values;
	bool		optional = password_optional(user, roleid);
	RehomeConn *conn;
	char	   *reason;
	int			n = 0;

	if (known == NULL)
		ereport(ERROR,
				errcode(ERRCODE_OUT_OF_MEMORY),
				errmsg("out of memory"));
	n = list_length(server->options) + list_length(user->options) + 4;
	keywords = palloc0(sizeof(char *) * n);
	values = palloc0(sizeof(char *) * n);
	n = add_options(server->options, known, keywords, values, 0);
	n = add_options(user->options, known, keywords, values, n);
	PQconninfoFree(known);

	if (!optional && !has_password(keywords, values))
		ereport(ERROR,
				errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				errmsg("password is required"),
				errdetail("Role \"%s\" is not a superuser and its user mapping for server \"%s\" has no password.",
						  GetUserNameFromId(roleid, false), server->servername),
				errhint("ALTER USER MAPPING FOR %s SERVER %s OPTIONS (ADD password '...');",
						quote_identifier(GetUserNameFromId(roleid, false)),
						quote_identifier(server->servername)));

	keywords[n] = "application_name";
	values[n++] = psprintf("pg_rehome %s", purpose);
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();

	conn = connect_with(keywords, values, &reason);
	if (conn == NULL)
		ereport(ERROR,
				errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				errmsg("could not connect to server \"%s\"", server->servername),
				errdetail_internal("%s", reason));
	if (!optional && !PQconnectionUsedPassword(conn->pg))
	{
		rehome_conn_close(conn);
		ereport(ERROR,
				errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				errmsg("password is required"),
				errdetail("Non-superuser cannot connect if the server does not request a password."),
				errhint("Target server's authentication method must be changed or password_required=false set in the user mapping attributes."));
	}
	begin_session(conn);
	return conn;
}

/*
 * rehome_conn_another connects once more to where a connection leads, as the
 * same role; NULL when the source has no room for it.  It lives like the
 * other.
 */
RehomeConn *
rehome_conn_another(RehomeConn *conn)
{
	const char **keywords;
	const char **values;
	char	   *reason;
	RehomeConn *another = NULL;

	if (params_of(conn, &keywords, &values))
		another = connect_with(keywords, values, &reason);
	if (another != NULL)
		begin_session(another);
	return another;
}

/*
 * rehome_conn_close ends the connection at once.  The source aborts whatever
 * was open.  A statement still running there must not keep its locks: since
 * version 14 the source looks by itself whether we are still there; an older
 * one is told to cancel it.
 */
void
rehome_conn_close(RehomeConn *conn)
{
	rehome_conn_copy_forget(conn);
	rehome_conn_forget(conn);
	if (conn->events != NULL)
		FreeWaitEventSet(conn->events);
	if (conn->pg != NULL)
	{
		if (!conn->self_ending && PQstatus(conn->pg) == CONNECTION_OK &&
			PQtransactionStatus(conn->pg) == PQTRANS_ACTIVE)
			rehome_conn_cancel(conn);
		libpqsrv_disconnect(conn->pg);
	}
	if (conn->prepared != NULL)
		pfree(conn->prepared);
	if (conn->undo != NULL)
		pfree(conn->undo);
	if (conn->tail != NULL)
		pfree(conn->tail);
	pfree(conn);
}
