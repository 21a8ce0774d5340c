/*-------------------------------------------------------------------------
 *
 * connection_private.h
 *	  What connect.c, connection.c and xact.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_CONNECTION_PRIVATE_H
#define REHOME_CONNECTION_PRIVATE_H

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "libpq-fe.h"
#include "remote/connection.h"

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
	bool		self_ending;	/* the source notices by itself when we are gone */
	int			open_level;		/* nest level at which it was opened */
	int			xact_level;		/* nest level of its transaction, 0: none */
	RehomeEnding ending;
	bool		commit_sent;	/* COMMIT is on its way or done */
	bool		committed;		/* the source said so */
	char	   *undo;			/* run when the local commit fails after ours */
	char	   *tail;			/* run right before COMMIT, after the local one */

	char	   *prepared;		/* SQL of the one prepared statement, or NULL */

	/* the COPY stream being read */
	char	   *copy_data;
	int			copy_len;
	int			copy_pos;
	bool		copy_done;
};

extern void rehome_conn_remember(RehomeConn *conn);
extern void rehome_conn_forget(RehomeConn *conn);
extern char *rehome_conn_establish(RehomeConn *conn, const char **keywords, const char **values);
extern PGresult *rehome_conn_result(RehomeConn *conn, TimestampTz deadline);

#endif							/* REHOME_CONNECTION_PRIVATE_H */
