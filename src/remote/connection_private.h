/*-------------------------------------------------------------------------
 *
 * connection_private.h
 *	  What connect.c, connection.c, copy_stream.c and xact.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_CONNECTION_PRIVATE_H
#define REHOME_CONNECTION_PRIVATE_H

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "libpq-fe.h"
#include "remote/connection.h"
#include "storage/latch.h"

typedef enum RehomeEnding
{
	REHOME_END_EXPLICIT,		/* whoever began the transaction ends it */
	REHOME_END_BEFORE_LOCAL,	/* commits right before the local commit */
	REHOME_END_AFTER_LOCAL		/* commits right after the local commit */
} RehomeEnding;

struct RehomeConn
{
	dlist_node	node;			/* in the list of xact.c */
	PGconn	   *pg;
	WaitEventSet *events;		/* latch, postmaster, socket */
	int			socket_event;	/* position of the socket in it */
	uint32		socket_wanted;	/* what it waits for on the socket */
	bool		self_ending;	/* the source notices by itself when we are gone */
	int			open_level;		/* nest level at which it was opened */
	int			xact_level;		/* nest level of its transaction, 0: none */
	RehomeEnding ending;
	int			slice;			/* whose authority moves with it, unless EXPLICIT */
	bool		commit_sent;	/* COMMIT is on its way or done */
	bool		committed;		/* the source said so */
	char	   *undo;			/* run when the local commit fails after ours */
	char	   *tail;			/* run right before COMMIT, after the local one */

	char	   *prepared;		/* SQL of the one prepared statement, or NULL */

	/* the COPY stream being read */
	char	   *copy_data;		/* libpq's; the piece in hand */
	int			copy_len;
	int			copy_pos;
	int			copy_held;		/* put since libpq last let go of everything */
	bool		copy_done;
};

extern void rehome_conn_remember(RehomeConn *conn);
extern void rehome_conn_forget(RehomeConn *conn);
extern void rehome_conn_cancel(RehomeConn *conn);
extern void rehome_conn_limit_subxact(int level, bool aborted);
extern PGresult *rehome_conn_result(RehomeConn *conn, TimestampTz deadline);
extern bool rehome_conn_rolled_back(PGresult *result);
extern bool rehome_conn_wait(RehomeConn *conn, uint32 wanted, TimestampTz deadline);
extern bool rehome_conn_flush(RehomeConn *conn, TimestampTz deadline);
extern void rehome_conn_hand_over(RehomeConn *conn, int sent, const char *sql);
extern void rehome_conn_check_sent(RehomeConn *conn, int sent, const char *sql);
extern RehomeRows *rehome_conn_take_rows(RehomeConn *conn, PGresult *result,
										 RehomeRemoteError *error);
extern void rehome_conn_fill_error(RehomeConn *conn, PGresult *result, RehomeRemoteError *error);
extern void rehome_conn_copy_forget(RehomeConn *conn);

#endif							/* REHOME_CONNECTION_PRIVATE_H */
