/*-------------------------------------------------------------------------
 *
 * reader.h
 *	  The rows of a query at the source, as values of a foreign table's
 *	  columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_READER_H
#define REHOME_READER_H

#include "executor/executor.h"
#include "remote/connection.h"

typedef struct RehomeReader RehomeReader;

extern RehomeReader *rehome_reader_send(RehomeConn *conn, Oid source, List *columns,
										const char *select);
extern void rehome_reader_begin(RehomeReader *reader);
extern RehomeReader *rehome_reader_open(RehomeConn *conn, Oid source, List *columns,
										const char *select);
extern bool rehome_reader_next(RehomeReader *reader, ExprContext *econtext,
							   Datum *values, bool *nulls);
extern void rehome_reader_stop(RehomeReader *reader);
extern int64 rehome_reader_close(RehomeReader *reader);

#endif							/* REHOME_READER_H */
