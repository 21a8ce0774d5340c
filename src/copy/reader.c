/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  The rows of a query at the source, as values of a foreign table's
 *	  columns.
 *
 * Rows come as COPY data.  Where every column has, on both sides, the same
 * built-in type whose binary form has never changed, that is what is asked
 * for: no escaping, no digits to print and parse, and the values are decoded
 * where libpq has put them.  Anything else comes as text, which the server's
 * own COPY code parses; it serves every type and every pair of versions.
 *
 * Which types the columns have at the source is not taken from memory: the
 * source describes the very query, in the transaction that runs it, and the
 * lock this takes keeps the types as they are until that ends.
 *
 * In the binary form each message of the source is one row (protocol, format
 * of CopyData); the first may begin with the file header.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "commands/progress.h"
#include "copy/reader.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "remote/throttle.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#define SIGNATURE_LENGTH 11

/* How many bytes are read between two looks at the clock. */
#define REPORT_BYTES 65536

/* ends with a zero byte of its own, which the literal's terminator is */
static const char signature[] = "PGCOPY\n\377\r\n";

StaticAssertDecl(sizeof(signature) == SIGNATURE_LENGTH, "a signature of another length");

/* How a column's binary form becomes a Datum. */
typedef enum Decoding
{
	DECODE_INT2,
	DECODE_INT4,
	DECODE_INT8,
	DECODE_TEXT,				/* a varlena that holds just the text */
	DECODE_RECEIVE				/* the type's receive function */
} Decoding;

typedef struct Column
{
	AttrNumber	attnum;			/* in the foreign table */
	Decoding	decoding;
	FmgrInfo	receive;
	Oid			ioparam;
	int32		typmod;
} Column;

struct RehomeReader
{
	RehomeConn *conn;
	char	   *sql;
	Relation	source;			/* the foreign table */
	List	   *names;			/* of the columns, char * */
	int			ncolumns;
	Column	   *columns;
	bool		binary;
	int64		nrows;
	int64		bytes;

	int64		reported;		/* of bytes: to progress and throttle */

	/* binary */
	bool		begun;			/* the header has been read */

	/* text */
	CopyFromState cstate;
	ErrorContextCallback callback;
};

/* The reader that counting_read() counts for. */
static RehomeReader *counted = NULL;

/*
 * Built-in types whose binary form is the same in every release we talk to,
 * and their arrays.
 */
static bool
is_binary_stable(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case BYTEAOID:
		case CHAROID:
		case NAMEOID:
		case INT8OID:
		case INT2OID:
		case INT4OID:
		case TEXTOID:
		case OIDOID:
		case JSONOID:
		case JSONBOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case MACADDROID:
		case MACADDR8OID:
		case INETOID:
		case CIDROID:
		case BPCHAROID:
		case VARCHAROID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case TIMETZOID:
		case BITOID:
		case VARBITOID:
		case NUMERICOID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
}

/*
 * prepare_columns looks up how each column is decoded; false when the binary
 * form cannot be used.  types and typmods are the source's.
 */
static bool
prepare_columns(RehomeReader *reader, const Oid *types, const int *typmods)
{
	/* receive functions convert from the client's encoding */
	if (pg_get_client_encoding() != GetDatabaseEncoding())
		return false;
	for (int i = 0; i < reader->ncolumns; i++)
	{
		Column	   *column = &reader->columns[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(reader->source), column->attnum - 1);
		int32		typmod = att->atttypmod;
		Oid			base = getBaseTypeAndTypmod(att->atttypid, &typmod);
		Oid			element = get_element_type(base);
		Oid			function;

		if (types[i] != base || base >= FirstGenbkiObjectId ||
			!is_binary_stable(OidIsValid(element) ? element : base))
			return false;
		column->decoding = DECODE_RECEIVE;
		if (base == att->atttypid)
		{
			if (base == INT2OID)
				column->decoding = DECODE_INT2;
			else if (base == INT4OID)
				column->decoding = DECODE_INT4;
			else if (base == INT8OID)
				column->decoding = DECODE_INT8;
			else if (base == TEXTOID ||
					 ((base == VARCHAROID || base == BPCHAROID) && typmods[i] == att->atttypmod))
				column->decoding = DECODE_TEXT;
		}
		getTypeBinaryInputInfo(att->atttypid, &function, &column->ioparam);
		fmgr_info(function, &column->receive);
		column->typmod = att->atttypmod;
	}
	return true;
}

static int
counting_read(void *outbuf, int minread, int maxread)
{
	int			n = rehome_conn_copy_read(outbuf, minread, maxread);

	counted->bytes += n;
	return n;
}

/*
 * open_text begins to parse COPY text.
 */
static void
open_text(RehomeReader *reader)
{
	List	   *attnames = NIL;
	ListCell   *lc;

	foreach(lc, reader->names)
		attnames = lappend(attnames, makeString(lfirst(lc)));
	counted = reader;
	reader->cstate = BeginCopyFrom(NULL, reader->source, NULL, NULL, false, counting_read, attnames,
								   list_make1(makeDefElem("encoding",
														  (Node *) makeString(pstrdup(GetDatabaseEncodingName())), -1)));
	reader->callback.callback = CopyFromErrorCallback;
	reader->callback.arg = (void *) reader->cstate;
	reader->callback.previous = error_context_stack;
	error_context_stack = &reader->callback;
}

/*
 * show_row tells which row of which table an error is about.
 */
static void
show_row(void *arg)
{
	RehomeReader *reader = arg;

	errcontext("COPY %s, row %lld", RelationGetRelationName(reader->source),
			   (long long) reader->nrows + 1);
}

static void
open_binary(RehomeReader *reader)
{
	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, RelationGetRelid(reader->source));
	reader->callback.callback = show_row;
	reader->callback.arg = reader;
	reader->callback.previous = error_context_stack;
	error_context_stack = &reader->callback;
}

/*
 * rehome_reader_send has the source begin to run select, in the transaction
 * open on the connection, which can serve nothing else from then on.  columns
 * (char *) names what it returns, in order, as the foreign table source has
 * it.  The reader lives in the current memory context.
 */
RehomeReader *
rehome_reader_send(RehomeConn *conn, Oid source, List *columns, const char *select)
{
	RehomeReader *reader = palloc0(sizeof(RehomeReader));
	Oid		   *types;
	int		   *typmods;
	ListCell   *lc;

	reader->conn = conn;
	reader->source = table_open(source, AccessShareLock);
	reader->names = columns;
	reader->columns = palloc0(sizeof(Column) * Max(list_length(columns), 1));
	foreach(lc, columns)
		reader->columns[reader->ncolumns++].attnum = get_attnum(source, lfirst(lc));
	rehome_conn_describe(conn, select, reader->ncolumns, &types, &typmods);
	reader->binary = prepare_columns(reader, types, typmods);
	reader->sql = psprintf("COPY (%s) TO STDOUT%s", select, reader->binary ? " (FORMAT binary)" : "");
	rehome_conn_send(conn, reader->sql);
	return reader;
}

/*
 * rehome_reader_begin waits for the source to have begun.  Readers are begun
 * and closed one after the other.
 */
void
rehome_reader_begin(RehomeReader *reader)
{
	rehome_conn_copy_out_begin(reader->conn, reader->sql);
	if (reader->binary)
		open_binary(reader);
	else
		open_text(reader);
}

/*
 * rehome_reader_stop gives up a query that was sent, and not begun to be read:
 * its transaction can only be rolled back.
 */
void
rehome_reader_stop(RehomeReader *reader)
{
	rehome_conn_copy_out_stop(reader->conn);
	table_close(reader->source, AccessShareLock);
}

/*
 * rehome_reader_open sends a query and begins to read it.
 */
RehomeReader *
rehome_reader_open(RehomeConn *conn, Oid source, List *columns, const char *select)
{
	RehomeReader *reader = rehome_reader_send(conn, source, columns, select);

	rehome_reader_begin(reader);
	return reader;
}

static void
bad_stream(RehomeReader *reader)
{
	ereport(ERROR,
			errcode(ERRCODE_PROTOCOL_VIOLATION),
			errmsg("the source sent a malformed row of table \"%s\"",
				   RelationGetRelationName(reader->source)));
}

/*
 * decode makes a Datum of len bytes at data.  The byte after them may be
 * overwritten, and is put back: receive functions may count on a terminator.
 */
static Datum
decode(RehomeReader *reader, Column *column, char *data, int len)
{
	StringInfoData buf;
	char		saved;
	Datum		value;

	switch (column->decoding)
	{
		case DECODE_INT2:
			if (len == sizeof(uint16))
			{
				uint16		n;

				memcpy(&n, data, sizeof(n));
				return Int16GetDatum((int16) pg_ntoh16(n));
			}
			break;
		case DECODE_INT4:
			if (len == sizeof(uint32))
			{
				uint32		n;

				memcpy(&n, data, sizeof(n));
				return Int32GetDatum((int32) pg_ntoh32(n));
			}
			break;
		case DECODE_INT8:
			if (len == sizeof(uint64))
			{
				uint64		n;

				memcpy(&n, data, sizeof(n));
				return Int64GetDatum((int64) pg_ntoh64(n));
			}
			break;
		case DECODE_TEXT:
			(void) pg_verify_mbstr(GetDatabaseEncoding(), data, len, false);
			return PointerGetDatum(cstring_to_text_with_len(data, len));
		case DECODE_RECEIVE:
			saved = data[len];
			data[len] = '\0';
			buf.data = data;
			buf.len = len;
			buf.maxlen = len + 1;
			buf.cursor = 0;
			value = ReceiveFunctionCall(&column->receive, &buf, column->ioparam, column->typmod);
			data[len] = saved;
			if (buf.cursor == len)
				return value;
			break;
	}
	ereport(ERROR,
			errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			errmsg("incorrect binary data format in column \"%s\" of the source's table \"%s\"",
				   NameStr(TupleDescAttr(RelationGetDescr(reader->source), column->attnum - 1)->attname),
				   RelationGetRelationName(reader->source)));
}

static int32
get_int32(const char *data)
{
	uint32		n;

	memcpy(&n, data, sizeof(n));
	return (int32) pg_ntoh32(n);
}

static int16
get_int16(const char *data)
{
	uint16		n;

	memcpy(&n, data, sizeof(n));
	return (int16) pg_ntoh16(n);
}

/*
 * skip_header checks the header at the start of a message and returns its
 * length.
 */
static int
skip_header(RehomeReader *reader, const char *data, int len)
{
	int			length = SIGNATURE_LENGTH + 2 * sizeof(int32);

	if (len < length || memcmp(data, signature, SIGNATURE_LENGTH) != 0)
		bad_stream(reader);
	length += get_int32(data + SIGNATURE_LENGTH + sizeof(int32));
	if (length < SIGNATURE_LENGTH || length > len)
		bad_stream(reader);
	reader->begun = true;
	return length;
}

/*
 * next_binary decodes one row; false at the end.
 */
static bool
next_binary(RehomeReader *reader, Datum *values, bool *nulls)
{
	char	   *data;
	char	   *end;
	int			len;

	do
	{
		data = rehome_conn_copy_message(reader->conn, &len);
		if (data == NULL)
			return false;
		reader->bytes += len;
		end = data + len;
		if (!reader->begun)
			data += skip_header(reader, data, len);
	} while (data == end);

	if (end - data < sizeof(int16))
		bad_stream(reader);
	if (get_int16(data) == -1)
	{
		/* the trailer; nothing may follow */
		if (rehome_conn_copy_message(reader->conn, &len) != NULL)
			bad_stream(reader);
		return false;
	}
	if (get_int16(data) != reader->ncolumns)
		bad_stream(reader);
	data += sizeof(int16);
	memset(nulls, true, sizeof(bool) * RelationGetDescr(reader->source)->natts);
	for (int i = 0; i < reader->ncolumns; i++)
	{
		Column	   *column = &reader->columns[i];

		if (end - data < sizeof(int32))
			bad_stream(reader);
		len = get_int32(data);
		data += sizeof(int32);
		if (len == -1)
		{
			if (column->decoding == DECODE_RECEIVE && !column->receive.fn_strict)
				/* a domain may refuse a null */
				(void) ReceiveFunctionCall(&column->receive, NULL, column->ioparam, column->typmod);
			continue;
		}
		if (len < 0 || len > end - data)
			bad_stream(reader);
		values[column->attnum - 1] = decode(reader, column, data, len);
		nulls[column->attnum - 1] = false;
		data += len;
	}
	if (data != end)
		bad_stream(reader);
	return true;
}

/*
 * rehome_reader_next fills in the columns of the next row, in the current
 * memory context; the others are null or hold the foreign table's default.
 * False at the end.
 */
bool
rehome_reader_next(RehomeReader *reader, ExprContext *econtext, Datum *values, bool *nulls)
{
	bool		found;

	if (reader->binary)
		found = next_binary(reader, values, nulls);
	else
		found = NextCopyFrom(reader->cstate, econtext, values, nulls);
	if (found)
		reader->nrows++;
	if (reader->bytes - reader->reported >= REPORT_BYTES || !found)
	{
		if (reader->binary)
			pgstat_progress_update_param(PROGRESS_COPY_BYTES_PROCESSED, reader->bytes);
		rehome_throttle_bytes(reader->bytes - reader->reported);
		reader->reported = reader->bytes;
	}
	return found;
}

/*
 * rehome_reader_close ends the stream, which must have been read to its end,
 * and returns its size in bytes.
 */
int64
rehome_reader_close(RehomeReader *reader)
{
	error_context_stack = reader->callback.previous;
	if (reader->binary)
		pgstat_progress_end_command();
	else
		EndCopyFrom(reader->cstate);
	rehome_conn_copy_out_end(reader->conn);
	table_close(reader->source, AccessShareLock);
	return reader->bytes;
}
