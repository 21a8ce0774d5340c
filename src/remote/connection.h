/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  A libpq connection to a PostgreSQL source, tied to local transactions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_CONNECTION_H
#define REHOME_CONNECTION_H

#include "compat.h"
#include "foreign/foreign.h"
#include "util/spi.h"

typedef struct RehomeConn RehomeConn;

/* What the source said when it refused a statement. */
typedef struct RehomeRemoteError
{
	char		sqlstate[6];
	char	   *message;
	char	   *detail;
	char	   *hint;
} RehomeRemoteError;

extern void rehome_conn_init(void);

extern UserMapping *rehome_user_mapping(Oid roleid, ForeignServer *server);
extern RehomeConn *rehome_conn_open(Oid serverid, Oid roleid, const char *purpose);
extern RehomeConn *rehome_conn_another(RehomeConn *conn);
extern void rehome_conn_close(RehomeConn *conn);
extern void rehome_conn_close_all(void);
extern int	rehome_conn_version(RehomeConn *conn);

/* Statements.  Signatures are those of util/spi.h; NULL when there is none. */
extern RehomeRows *rehome_conn_exec(RehomeConn *conn, const char *sql);
extern RehomeRows *rehome_conn_query(RehomeConn *conn, const char *sql,
									 const char *signature,...);
extern RehomeRows *rehome_conn_query_prepared(RehomeConn *conn, const char *sql,
											  const char *signature,...);
extern char *rehome_conn_value(RehomeConn *conn, const char *sql,
							   const char *signature,...);
extern void rehome_conn_send(RehomeConn *conn, const char *sql);
extern RehomeRows *rehome_conn_receive(RehomeConn *conn);
extern RehomeRows *rehome_conn_try(RehomeConn *conn, const char *sql, RehomeRemoteError *error);
pg_noreturn extern void rehome_conn_raise(RehomeConn *conn, const RehomeRemoteError *error,
										  const char *sql);

/* Transactions. */
extern void rehome_conn_begin(RehomeConn *conn, const char *modes);
extern void rehome_conn_begin_read(RehomeConn *conn);
extern void rehome_conn_commit(RehomeConn *conn);
extern void rehome_conn_rollback(RehomeConn *conn);

/*
 * Leave the open transaction to the local one.  Either it commits right
 * before the local commit (the source gives authority up), and when the
 * local commit fails after all, undo is run at the source; or it commits
 * right after the local commit (the source gets authority back), with tail
 * run just before.  Each takes the connection over.
 */
extern void rehome_conn_commit_before_local(RehomeConn *conn, int slice, const char *undo);
extern void rehome_conn_commit_after_local(RehomeConn *conn, int slice, const char *tail);
extern bool rehome_conn_moves(int slice);

/* What a query would return. */
extern void rehome_conn_describe(RehomeConn *conn, const char *sql, int nfields,
								 Oid **types, int **typmods);

/* COPY. */
extern void rehome_conn_copy_out_begin(RehomeConn *conn, const char *sql);
extern char *rehome_conn_copy_message(RehomeConn *conn, int *len);
extern int	rehome_conn_copy_read(void *outbuf, int minread, int maxread);
extern void rehome_conn_copy_out_end(RehomeConn *conn);
extern void rehome_conn_copy_out_stop(RehomeConn *conn);
extern void rehome_conn_copy_in(RehomeConn *conn, const char *sql);
extern void rehome_conn_copy_put(RehomeConn *conn, const char *data, int len);
extern void rehome_conn_copy_in_end(RehomeConn *conn);

/* Called about every second while waiting for the source, or reading from it; may raise. */
extern void (*rehome_conn_wait_hook) (void);
extern void rehome_conn_limit(TimestampTz at);

#endif							/* REHOME_CONNECTION_H */
