/*-------------------------------------------------------------------------
 *
 * copy_stream.c
 *	  COPY over a connection, in both directions.
 *
 * Out, a session reads one stream at a time, message by message or as a
 * stream of bytes.  The piece in hand is libpq's memory and is freed when the
 * next is asked for, or with the connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "remote/connection.h"
#include "remote/connection_private.h"

/*
 * What libpq may hold of what is put into a COPY: without a bound it would
 * keep all that the source is slow to take.
 */
#define COPY_HELD (256 * 1024)

/* The stream that rehome_conn_copy_read() reads from. */
static RehomeConn *copy_stream = NULL;

/*
 * free_piece gives the current piece of the stream back to libpq.
 */
static void
free_piece(RehomeConn *conn)
{
	if (conn->copy_data != NULL)
		PQfreemem(conn->copy_data);
	conn->copy_data = NULL;
	conn->copy_len = conn->copy_pos = 0;
}

/*
 * rehome_conn_copy_forget ends whatever COPY a connection, which is being
 * closed, was at.
 */
void
rehome_conn_copy_forget(RehomeConn *conn)
{
	free_piece(conn);
	if (copy_stream == conn)
		copy_stream = NULL;
}

/*
 * await_copy waits for a COPY that was sent to begin.
 */
static void
await_copy(RehomeConn *conn, const char *sql, ExecStatusType expected)
{
	PGresult   *result = rehome_conn_result(conn, 0);

	if (PQresultStatus(result) != expected)
	{
		RehomeRemoteError error;

		rehome_conn_fill_error(conn, result, &error);
		rehome_conn_raise(conn, &error, sql);
	}
	PQclear(result);
}

/*
 * finish_copy reads the end of a COPY, and raises when the source refused it.
 */
static void
finish_copy(RehomeConn *conn, const char *what)
{
	RehomeRemoteError error;
	RehomeRows *rows = rehome_conn_take_rows(conn, rehome_conn_result(conn, 0), &error);

	if (rows == NULL)
		rehome_conn_raise(conn, &error, what);
}

/*
 * rehome_conn_copy_out_begin waits for a COPY ... TO STDOUT that was sent to
 * begin, and makes it the stream that rehome_conn_copy_read() serves; one at a
 * time in a session of ours.
 */
void
rehome_conn_copy_out_begin(RehomeConn *conn, const char *sql)
{
	await_copy(conn, sql, PGRES_COPY_OUT);
	conn->copy_data = NULL;
	conn->copy_len = conn->copy_pos = 0;
	conn->copy_done = false;
	copy_stream = conn;
}

/*
 * next_piece fetches the next piece of the stream into copy_data; false at its
 * end.
 */
static bool
next_piece(RehomeConn *conn)
{
	for (;;)
	{
		char	   *data;
		int			len = PQgetCopyData(conn->pg, &data, 1);

		if (len > 0)
		{
			conn->copy_data = data;
			conn->copy_len = len;
			conn->copy_pos = 0;
			return true;
		}
		if (len == -1)
		{
			finish_copy(conn, "COPY TO STDOUT");
			conn->copy_done = true;
			return false;
		}
		if (len == -2)
			rehome_conn_check_sent(conn, 0, "COPY TO STDOUT");
		rehome_conn_wait(conn, WL_SOCKET_READABLE, 0);
		if (!PQconsumeInput(conn->pg))
			rehome_conn_check_sent(conn, 0, "COPY TO STDOUT");
	}
}

/*
 * rehome_conn_copy_message returns the next message of the stream: for COPY
 * TO STDOUT, one row.  It is the caller's to scribble on, up to and including
 * a zero byte after its end, until the next call.  NULL at the end.
 */
char *
rehome_conn_copy_message(RehomeConn *conn, int *len)
{
	free_piece(conn);
	if (conn->copy_done || !next_piece(conn))
		return NULL;
	*len = conn->copy_len;
	return conn->copy_data;
}

/*
 * rehome_conn_copy_read is a data source for BeginCopyFrom(): it fills outbuf
 * with at least minread bytes, unless the stream ends before.
 */
int
rehome_conn_copy_read(void *outbuf, int minread, int maxread)
{
	RehomeConn *conn = copy_stream;
	int			have = 0;

	if (conn == NULL)
		elog(ERROR, "no COPY stream is open");
	while (have < maxread && !conn->copy_done)
	{
		int			n;

		if (conn->copy_pos == conn->copy_len)
		{
			free_piece(conn);
			if (!next_piece(conn))
				break;
		}
		n = Min(maxread - have, conn->copy_len - conn->copy_pos);
		memcpy((char *) outbuf + have, conn->copy_data + conn->copy_pos, n);
		conn->copy_pos += n;
		have += n;
	}
	CHECK_FOR_INTERRUPTS();
	return have;
}

/*
 * rehome_conn_copy_out_end closes the stream, which must have been read to
 * its end.
 */
void
rehome_conn_copy_out_end(RehomeConn *conn)
{
	free_piece(conn);
	/* the text format has no end marker: the reader may stop one short */
	if (!conn->copy_done && next_piece(conn))
		elog(ERROR, "the COPY stream was not read to its end");
	copy_stream = NULL;
}

/*
 * rehome_conn_copy_out_stop gives up a COPY ... TO STDOUT that was sent, and
 * not begun to be read.  There is nothing left to do in its transaction but to
 * roll it back.
 */
void
rehome_conn_copy_out_stop(RehomeConn *conn)
{
	PGresult   *result;
	bool		begun;
	char	   *data;
	int			len;

	rehome_conn_cancel(conn);
	result = rehome_conn_result(conn, 0);
	begun = PQresultStatus(result) == PGRES_COPY_OUT;
	PQclear(result);
	if (!begun)
		return;
	while ((len = PQgetCopyData(conn->pg, &data, 1)) >= 0)
	{
		if (len > 0)
			PQfreemem(data);
		else
		{
			rehome_conn_wait(conn, WL_SOCKET_READABLE, 0);
			rehome_conn_check_sent(conn, PQconsumeInput(conn->pg), "COPY TO STDOUT");
		}
	}
	PQclear(rehome_conn_result(conn, 0));
}

/*
 * flush hands what libpq holds back to the kernel, waiting for the source to
 * take it.
 */
static void
flush(RehomeConn *conn)
{
	rehome_conn_check_sent(conn, rehome_conn_flush(conn, 0), "COPY FROM STDIN");
	conn->copy_held = 0;
}

/*
 * rehome_conn_copy_in starts a COPY ... FROM STDIN.
 */
void
rehome_conn_copy_in(RehomeConn *conn, const char *sql)
{
	rehome_conn_send(conn, sql);
	await_copy(conn, sql, PGRES_COPY_IN);
}

/*
 * rehome_conn_copy_put puts data into it.  A large row goes in pieces: each time
 * the source takes a part of what libpq has, libpq moves all the rest.
 */
void
rehome_conn_copy_put(RehomeConn *conn, const char *data, int len)
{
	while (len > 0)
	{
		int			piece = Min(len, COPY_HELD);
		int			rc;

		while ((rc = PQputCopyData(conn->pg, data, piece)) == 0)
			flush(conn);
		rehome_conn_check_sent(conn, rc == 1, "COPY FROM STDIN");
		conn->copy_held += piece;
		if (conn->copy_held >= COPY_HELD)
			flush(conn);
		CHECK_FOR_INTERRUPTS();
		data += piece;
		len -= piece;
	}
}

void
rehome_conn_copy_in_end(RehomeConn *conn)
{
	int			rc;

	while ((rc = PQputCopyEnd(conn->pg, NULL)) == 0)
		flush(conn);
	rehome_conn_check_sent(conn, rc == 1, "COPY FROM STDIN");
	flush(conn);
	finish_copy(conn, "COPY FROM STDIN");
}
