/*-------------------------------------------------------------------------
 *
 * hash.c
 *	  SQL that hashes rows, and the buckets their hashes are summed up in.
 *
 * Both sides run the same expressions, so what they call must give the same
 * everywhere: the extended hash functions of PostgreSQL 11 and later, fed with
 * values that are the same or with text that is.
 *
 * A row's hash is a chain: each column is hashed with the hash of those before
 * it as the seed, from the key on.  So a value counts with its place and its
 * row, and nothing is folded together but by the functions themselves.  Those
 * of 64-bit types look at 32 bits, both halves combined; such a value is
 * hashed a second time, by another part of it.
 *
 * A column is hashed as it is stored where its type has one form for each
 * value and a hash function (integers, text, uuid, timestamps); all else by
 * its text, which is exact: session settings that change it are pinned on both
 * sides, and enums appear as labels.
 *
 * Buckets are ranges of the key where that is a single integer, and the keys
 * are not too sparse: as keys are unique, no range can have more rows than
 * numbers, and the rows of those that differ are found by index.  For other
 * keys they are made by hash, which needs no bounds, and so neither order nor
 * collation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "verify/hash.h"

/* Sources from here on have hashtextextended(). */
#define HASH_VERSION 110000
/* Sources from here on print floats as we do. */
#define FLOAT_VERSION 120000

/*
 * Columns in one chain.  A parser takes stack for each level of an expression,
 * so wide tables have several, each with the key.
 */
#define CHAIN_COLUMNS 40

/* A range of so many numbers is never too large. */
#define RANGE_NUMBERS 4096
/* Nor is one of this many times the rows that a bucket by hash would have. */
#define RANGE_SPARSE 16

/* A table known to have fewer rows is read again for less than ranges cost. */
#define RANGE_ROWS 1000

/* Ranges that are looked up by index; more are found by reading the table. */
#define RANGE_LOOKUPS 1000

/*
 * Types that are hashed by a function of theirs: the value is cast to what it
 * takes, and for null stands what is given here.  The second function is that
 * of types whose first does not look at all there is.
 */
typedef struct TypeHash
{
	Oid			type;
	const char *function;
	const char *cast;
	const char *null;
	const char *function2;
	const char *cast2;
	const char *null2;
} TypeHash;

static const TypeHash type_hashes[] = {
	{BOOLOID, "hashint8extended", "::int::int8", "0"},
	{INT2OID, "hashint8extended", "::int8", "0"},
	{INT4OID, "hashint8extended", "::int8", "0"},
	{INT8OID, "hashint8extended", "::int8", "0", "hashint8extended", "::int8 >> 32", "0"},
	{TEXTOID, "hashtextextended", "::text COLLATE \"C\"", "''"},
	{VARCHAROID, "hashtextextended", "::text COLLATE \"C\"", "''"},
	{UUIDOID, "uuid_hash_extended", "::uuid", "'00000000-0000-0000-0000-000000000000'::uuid"},
	/* TimeZone is UTC: the same microseconds; infinity has no time of day */
	{TIMESTAMPOID, "timestamp_hash_extended", "::timestamp", "'epoch'::timestamp",
	"time_hash_extended", "::timestamp::time", "'0:00'::time"},
	{TIMESTAMPTZOID, "timestamp_hash_extended", "::timestamp", "'epoch'::timestamp",
	"time_hash_extended", "::timestamp::time", "'0:00'::time"},
};

static List *
key_columns(RehomeMapping *mapping)
{
	List	   *columns = NIL;

	for (int k = 0; k < mapping->nkey; k++)
		columns = lappend(columns, mapping->key[k]);
	return columns;
}

/*
 * rehome_hash_possible tells whether both sides get the same hash for the same
 * values of the key and the columns.
 */
bool
rehome_hash_possible(RehomeConn *conn, RehomeMapping *mapping, List *columns)
{
	ListCell   *lc;

	if (conn == NULL || rehome_conn_version(conn) < HASH_VERSION ||
		strcmp(rehome_conn_value(conn, "SELECT current_setting('server_encoding')", ""),
			   GetDatabaseEncodingName()) != 0)
		return false;
	foreach(lc, list_concat(key_columns(mapping), columns))
	{
		RehomeMappedColumn *column = lfirst(lc);
		Oid			type = getBaseType(column->type);

		if (column->plain == 0 || type == MONEYOID ||
			(rehome_conn_version(conn) < FLOAT_VERSION && type != TEXTOID &&
			 type != INT4OID && type != INT8OID && type != INT2OID && type != VARCHAROID &&
			 type != NUMERICOID && type != BOOLOID && type != BPCHAROID &&
			 type != TIMESTAMPOID && type != TIMESTAMPTZOID && type != DATEOID &&
			 type != UUIDOID && type != BYTEAOID))
			return false;
	}
	return true;
}

/*
 * rehome_hash_column returns what a side calls a column, after prefix.
 */
const char *
rehome_hash_column(RehomeMapping *mapping, RehomeMappedColumn *column, const char *prefix, bool source)
{
	return psprintf("%s%s", prefix,
					quote_identifier(source ? NameStr(TupleDescAttr(mapping->source_desc, column->plain - 1)->attname) :
									 column->name));
}

static const TypeHash *
type_hash(RehomeMappedColumn *column)
{
	Oid			type = getBaseType(column->type);

	for (int i = 0; i < lengthof(type_hashes); i++)
		if (type_hashes[i].type == type)
			return &type_hashes[i];
	return NULL;
}

/*
 * add_column returns the hash of a column, which the side calls name, on top
 * of a chain.  It is null only if the column is, and must not be.
 */
static char *
add_column(RehomeMappedColumn *column, const char *name, const char *chain)
{
	const TypeHash *how = type_hash(column);
	char	   *hash;

	/* what is null has no text, and no other text begins like that */
	if (how == NULL)
		return psprintf("hashtextextended(concat(%s IS NULL, %s) COLLATE \"C\", %s)", name, name, chain);
	if (column->notnull)
	{
		hash = psprintf("%s(%s%s, %s)", how->function, name, how->cast, chain);
		if (how->function2 == NULL)
			return hash;
		/* there, what the second function is given can be null by itself */
		return psprintf("%s(coalesce(%s%s, %s), %s)", how->function2, name, how->cast2, how->null2, hash);
	}
	hash = psprintf("%s(coalesce(%s%s, %s), %s)", how->function, name, how->cast, how->null, chain);
	if (how->function2 != NULL)
		hash = psprintf("%s(coalesce(%s%s, %s), %s)", how->function2, name, how->cast2, how->null2, hash);
	return psprintf("(%s # CASE WHEN %s IS NULL THEN 1::int8 ELSE 0::int8 END)", hash, name);
}

/*
 * chain_of returns the hash of the columns.  Those that must not be null are
 * not looked at for that; if one is, it shows in the hash, and all are hashed
 * by their text.
 */
static char *
chain_of(RehomeMapping *mapping, List *columns, const char *prefix, bool source)
{
	StringInfoData all;
	char	   *chain = pstrdup("1");
	ListCell   *lc;

	initStringInfo(&all);
	foreach(lc, columns)
	{
		const char *name = rehome_hash_column(mapping, lfirst(lc), prefix, source);

		chain = add_column(lfirst(lc), name, chain);
		appendStringInfo(&all, "%s%s", all.len ? ", " : "", name);
	}
	return psprintf("coalesce(%s, hashtextextended(ROW(%s)::text COLLATE \"C\", 1))", chain, all.data);
}

/*
 * rehome_hash_key returns the expression of a row's key's hash with a seed,
 * another than that by which buckets are made.
 */
char *
rehome_hash_key(RehomeMapping *mapping, const char *prefix, bool source, int seed)
{
	return psprintf("hashint8extended(%s, %d)", chain_of(mapping, key_columns(mapping), prefix, source), seed);
}

/*
 * rehome_hash_sum returns the aggregate, a text, of the rows' hashes over the
 * key and the columns.
 */
char *
rehome_hash_sum(RehomeMapping *mapping, List *columns, const char *prefix, bool source)
{
	List	   *others = list_difference_ptr(columns, key_columns(mapping));
	StringInfoData sql;
	int			from = 0;

	initStringInfo(&sql);
	do
	{
		List	   *chain = key_columns(mapping);

		for (int i = from; i < Min(from + CHAIN_COLUMNS, list_length(others)); i++)
			chain = lappend(chain, list_nth(others, i));
		appendStringInfo(&sql, "%ssum(%s)::text", from > 0 ? " || ' ' || " : "",
						 chain_of(mapping, chain, prefix, source));
		from += CHAIN_COLUMNS;
	} while (from < list_length(others));
	return sql.data;
}

static bool
is_integer(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

/*
 * source_key_type returns the type that the source itself has for the first
 * column of the key, whatever the foreign table says.
 */
static Oid
source_key_type(RehomeConn *conn, RehomeMapping *mapping)
{
	StringInfoData sql;
	Oid		   *types;
	int		   *typmods;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM ", rehome_hash_column(mapping, mapping->key[0], "source.", true));
	rehome_remote_from(&sql, rehome_remote_table(mapping->map->source), NULL, false);
	rehome_conn_describe(conn, sql.data, 1, &types, &typmods);
	return types[0];
}

/*
 * estimated_rows returns how many rows the planner thinks that a table has;
 * -1 when nobody knows.
 */
static double
estimated_rows(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	double		rows;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	ReleaseSysCache(tuple);
	return rows;
}

/*
 * rehome_buckets_choose decides how the rows of a table that can be hashed are
 * put in buckets.  The target is looked at under the active snapshot, as
 * owner.
 */
RehomeBuckets *
rehome_buckets_choose(RehomeConn *conn, Oid owner, RehomeMapping *mapping)
{
	RehomeBuckets *buckets = palloc0(sizeof(RehomeBuckets));
	const char *key = quote_identifier(mapping->key[0]->name);
	double		rows = estimated_rows(mapping->map->target);
	RehomeRows *ends;
	uint64		last;

	buckets->mapping = mapping;
	if ((rows >= 0 && rows < RANGE_ROWS) || mapping->nkey != 1 ||
		!is_integer(getBaseType(mapping->key[0]->type)) || !is_integer(source_key_type(conn, mapping)))
		return buckets;
	ends = rehome_spi_as(owner, true, psprintf("SELECT min(%s), max(%s) FROM %s", key, key,
											   rehome_relation_name(mapping->map->target)));
	if (ends->value[0][0] == NULL)
		return buckets;			/* without rows */
	buckets->low = rehome_int64(ends->value[0][0]);
	buckets->high = rehome_int64(ends->value[0][1]);
	last = (uint64) buckets->high - (uint64) buckets->low;
	while (last >> buckets->shift >= REHOME_BUCKETS)
		buckets->shift++;
	buckets->by_range = ldexp(1, buckets->shift) <=
		Max(RANGE_NUMBERS, RANGE_SPARSE * rows / REHOME_BUCKETS);
	return buckets;
}

/*
 * rehome_bucket_of returns the expression of a row's bucket.
 */
char *
rehome_bucket_of(RehomeBuckets *buckets, const char *prefix, bool source)
{
	const char *key = rehome_hash_column(buckets->mapping, buckets->mapping->key[0], prefix, source);
	char	   *range;

	if (!buckets->by_range)
		return psprintf("(%s & %d)", chain_of(buckets->mapping, key_columns(buckets->mapping), prefix, source),
						REHOME_BUCKETS - 1);
	range = psprintf("((%s::int8 - '" INT64_FORMAT "'::int8) >> %d)", key, buckets->low, buckets->shift);
	if (!source)
		return range;			/* low and high are the target's */
	return psprintf("CASE WHEN %s BETWEEN '" INT64_FORMAT "'::int8 AND '" INT64_FORMAT "'::int8 THEN %s ELSE %d END",
					key, buckets->low, buckets->high, range, REHOME_OUTSIDE);
}

/*
 * ranges_condition returns the condition on a key that is in a range that
 * differs, neighbours as one; NULL when that is too many to look up.
 */
static char *
ranges_condition(RehomeBuckets *buckets, const char *key)
{
	StringInfoData sql;
	int			n = 0;

	initStringInfo(&sql);
	for (int from = 0; from < REHOME_BUCKETS; from++)
	{
		int			to = from;

		if (!buckets->differing[from])
			continue;
		while (to + 1 < REHOME_BUCKETS && buckets->differing[to + 1])
			to++;
		if (++n > RANGE_LOOKUPS)
			return NULL;
		/* the last range may end beyond what a number can be */
		appendStringInfo(&sql, "%s(%s >= '" INT64_FORMAT "'::int8 AND %s <= '" INT64_FORMAT "'::int8)",
						 sql.len ? " OR " : "", key, buckets->low + ((int64) from << buckets->shift), key,
						 buckets->low + Min((((int64) to + 1) << buckets->shift) - 1, buckets->high - buckets->low));
		from = to;
	}
	if (buckets->outside)
		appendStringInfo(&sql, "%s%s < '" INT64_FORMAT "'::int8 OR %s > '" INT64_FORMAT "'::int8 OR %s IS NULL",
						 sql.len ? " OR " : "", key, buckets->low, key, buckets->high, key);
	return psprintf("(%s)", sql.data);
}

/*
 * rehome_buckets_condition returns the condition on a row that is in a bucket
 * that differs.
 */
char *
rehome_buckets_condition(RehomeBuckets *buckets, const char *prefix, bool source)
{
	const char *key = rehome_hash_column(buckets->mapping, buckets->mapping->key[0], prefix, source);
	char	   *ranges = buckets->by_range ? ranges_condition(buckets, key) : NULL;
	StringInfoData list;

	if (ranges != NULL)
		return ranges;
	initStringInfo(&list);
	for (int b = 0; b < REHOME_BUCKETS; b++)
		if (buckets->differing[b])
			appendStringInfo(&list, "%s%d", list.len ? "," : "", b);
	if (buckets->outside)
		appendStringInfo(&list, "%s%d", list.len ? "," : "", REHOME_OUTSIDE);
	return psprintf("%s = ANY ('{%s}'::int8[])", rehome_bucket_of(buckets, prefix, source), list.data);
}
