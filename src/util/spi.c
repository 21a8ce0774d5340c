/*-------------------------------------------------------------------------
 *
 * spi.c
 *	  Running SQL on the local catalogs: parameters in, text out.
 *
 * Catalog rows are small and few, so results are handed over as text copied
 * into the caller's memory context; user data never passes through here.
 * The caller is inside a frame of util/call.h, which has SPI connected.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "util/call.h"
#include "util/spi.h"
#include "utils/builtins.h"

#define MAX_PARAMS 24

/*
 * run_sql executes one statement and copies its result into the memory
 * context that was current when rehome_spi() was called.  Unless plan is
 * NULL, it is where the statement's plan is kept once it was made: as long as
 * the frame, or, with keep, as long as the session.
 */
static RehomeRows *
run_sql(SPIPlanPtr *plan, bool keep, const char *sql, bool read_only, const char *signature, va_list args)
{
	int			nargs = (int) strlen(signature);
	Oid			types[MAX_PARAMS];
	Datum		values[MAX_PARAMS];
	char		nulls[MAX_PARAMS];
	RehomeRows *rows = palloc0(sizeof(RehomeRows));
	MemoryContext context = CurrentMemoryContext;
	SPITupleTable *table;
	int			rc;

	Assert(nargs <= MAX_PARAMS);
	for (int i = 0; i < nargs; i++)
	{
		nulls[i] = ' ';
		switch (signature[i])
		{
			case 'i':
				types[i] = INT4OID;
				values[i] = Int32GetDatum(va_arg(args, int));
				break;
			case 'l':
				types[i] = INT8OID;
				values[i] = Int64GetDatum(va_arg(args, int64));
				break;
			case 'o':
				types[i] = OIDOID;
				values[i] = ObjectIdGetDatum(va_arg(args, Oid));
				break;
			case 'b':
				types[i] = BOOLOID;
				values[i] = BoolGetDatum(va_arg(args, int) != 0);
				break;
			case 't':
				{
					const char *text = va_arg(args, const char *);

					types[i] = TEXTOID;
					values[i] = text ? CStringGetTextDatum(text) : (Datum) 0;
					if (text == NULL)
						nulls[i] = 'n';
					break;
				}
			default:
				elog(ERROR, "unknown parameter letter \"%c\"", signature[i]);
		}
	}

	if (plan == NULL)
		rc = SPI_execute_with_args(sql, nargs, types, values, nulls, read_only, 0);
	else
	{
		if (*plan == NULL)
		{
			SPIPlanPtr	made = SPI_prepare(sql, nargs, types);

			if (made == NULL || (keep && SPI_keepplan(made) != 0))
				elog(ERROR, "SPI failed on \"%s\": %s", sql, SPI_result_code_string(SPI_result));
			*plan = made;
		}
		rc = SPI_execute_plan(*plan, values, nulls, read_only, 0);
	}
	MemoryContextSwitchTo(context);	/* SPI leaves us in its own */
	if (rc < 0)
		elog(ERROR, "SPI failed on \"%s\": %s", sql, SPI_result_code_string(rc));

	rows->processed = SPI_processed;
	table = SPI_tuptable;
	if (table != NULL)
	{
		rows->n = (int) table->numvals;
		rows->nfields = table->tupdesc->natts;
		rows->value = palloc(sizeof(char **) * Max(rows->n, 1));
		for (int r = 0; r < rows->n; r++)
		{
			rows->value[r] = palloc(sizeof(char *) * rows->nfields);
			for (int c = 0; c < rows->nfields; c++)
				rows->value[r][c] = SPI_getvalue(table->vals[r], table->tupdesc, c + 1);
		}
		SPI_freetuptable(table);
	}
	return rows;
}

/*
 * rehome_spi runs one statement that may write.
 */
RehomeRows *
rehome_spi(const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = run_sql(NULL, false, sql, false, signature, args);
	va_end(args);
	return rows;
}

/*
 * rehome_spi_planned runs one statement that will be run again: *plan, NULL at
 * first, keeps its plan, and ends with the frame.
 */
RehomeRows *
rehome_spi_planned(SPIPlanPtr *plan, const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = run_sql(plan, false, sql, false, signature, args);
	va_end(args);
	return rows;
}

/*
 * rehome_spi_kept runs one statement that will be run again by other frames
 * too: for each table of thousands, or in each transaction of a worker, where
 * to plan it would take longer than to run it.  *plan, which is static, keeps
 * its plan for the session.
 */
RehomeRows *
rehome_spi_kept(SPIPlanPtr *plan, const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = run_sql(plan, true, sql, false, signature, args);
	va_end(args);
	return rows;
}

/*
 * rehome_spi_read runs one query under the active snapshot, so that several
 * of them see the same state.
 */
RehomeRows *
rehome_spi_read(const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = run_sql(NULL, false, sql, true, signature, args);
	va_end(args);
	return rows;
}

/*
 * rehome_spi_read_kept is rehome_spi_read with a plan that is kept.
 */
RehomeRows *
rehome_spi_read_kept(SPIPlanPtr *plan, const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = run_sql(plan, true, sql, true, signature, args);
	va_end(args);
	return rows;
}

/*
 * rehome_spi_as runs one statement as a role: every statement that reads or
 * writes a user's relation, since views, casts, index expressions and the
 * like run that user's code.
 */
RehomeRows *
rehome_spi_as(Oid role, bool read_only, const char *sql)
{
	RehomeAs	as;
	RehomeRows *rows;

	rehome_become(&as, role);
	rows = read_only ? rehome_spi_read(sql, "") : rehome_spi(sql, "");
	rehome_become_self(&as);
	return rows;
}

/*
 * rehome_spi_value runs one statement that must give exactly one row, and
 * returns its first column as text, or NULL.
 */
char *
rehome_spi_value(const char *sql, const char *signature,...)
{
	va_list		args;
	RehomeRows *rows;

	va_start(args, signature);
	rows = run_sql(NULL, false, sql, false, signature, args);
	va_end(args);
	if (rows->n != 1)
		elog(ERROR, "expected one row from \"%s\", got %d", sql, rows->n);
	return rows->value[0][0];
}

/*
 * rehome_rows_split returns n results (RehomeRows) of one, whose last column
 * says which of them a row is of, counted from 1, and by which it is sorted.
 */
List *
rehome_rows_split(RehomeRows *rows, int n)
{
	List	   *split = NIL;
	int			next = 0;

	for (int i = 1; i <= n; i++)
	{
		RehomeRows *one = palloc0(sizeof(RehomeRows));

		one->nfields = rows->nfields - 1;
		one->value = rows->value + next;
		for (; next < rows->n && rehome_int(rows->value[next][one->nfields]) == i; next++)
			one->n++;
		split = lappend(split, one);
	}
	return split;
}

/*
 * rehome_cursor_open opens a cursor for a query under the active snapshot.
 */
Portal
rehome_cursor_open(const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	Portal		cursor = SPI_cursor_open_with_args(NULL, sql, 0, NULL, NULL, NULL, true, 0);

	MemoryContextSwitchTo(context);
	return cursor;
}

/*
 * rehome_cursor_fetch fetches the next rows, for the caller to free with
 * SPI_freetuptable(); NULL at the end.
 */
SPITupleTable *
rehome_cursor_fetch(Portal cursor, long n)
{
	MemoryContext context = CurrentMemoryContext;

	SPI_cursor_fetch(cursor, true, n);
	MemoryContextSwitchTo(context);
	if (SPI_tuptable->numvals > 0)
		return SPI_tuptable;
	SPI_freetuptable(SPI_tuptable);
	return NULL;
}

/* Text of an integer as SPI gave it; NULL counts as 0. */
int64
rehome_int64(const char *text)
{
	return text == NULL ? 0 : pg_strtoint64(text);
}

int
rehome_int(const char *text)
{
	return text == NULL ? 0 : pg_strtoint32(text);
}

double
rehome_float8(const char *text)
{
	return text == NULL ? 0 : strtod(text, NULL);
}

/* Text of a boolean as the server prints it; NULL counts as false. */
bool
rehome_bool(const char *text)
{
	return text != NULL && text[0] == 't';
}
