/*-------------------------------------------------------------------------
 *
 * spi.h
 *	  Running SQL on the local catalogs: parameters in, text out.
 *
 * The signature of the parameters is a string, one letter each: i (int),
 * l (int64), o (Oid), b (bool as int), t (text from a C string or NULL).
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SPI_H
#define REHOME_SPI_H

#include "executor/spi.h"

/* A result: values as text, NULL for SQL NULL, in the caller's context. */
typedef struct RehomeRows
{
	int			n;				/* rows */
	int			nfields;		/* columns */
	uint64		processed;		/* rows the command touched */
	char	 ***value;			/* value[row][column] */
} RehomeRows;

extern RehomeRows *rehome_spi(const char *sql, const char *signature,...);
extern RehomeRows *rehome_spi_planned(SPIPlanPtr *plan, const char *sql, const char *signature,...);
extern RehomeRows *rehome_spi_kept(SPIPlanPtr *plan, const char *sql, const char *signature,...);
extern RehomeRows *rehome_spi_read(const char *sql, const char *signature,...);
extern RehomeRows *rehome_spi_read_kept(SPIPlanPtr *plan, const char *sql, const char *signature,...);
extern RehomeRows *rehome_spi_as(Oid role, bool read_only, const char *sql);
extern char *rehome_spi_value(const char *sql, const char *signature,...);

/* Rows to fetch at once, unless they are known to be large. */
#define REHOME_FETCH_ROWS 1000

extern Portal rehome_cursor_open(const char *sql);
extern SPITupleTable *rehome_cursor_fetch(Portal cursor, long n);

extern List *rehome_rows_split(RehomeRows *rows, int n);
extern int64 rehome_int64(const char *text);
extern int	rehome_int(const char *text);
extern double rehome_float8(const char *text);
extern bool rehome_bool(const char *text);

#endif							/* REHOME_SPI_H */
