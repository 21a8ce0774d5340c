/*-------------------------------------------------------------------------
 *
 * hash.c
 *	  SQL that hashes rows, and the buckets their hashes are summed up in.
 *
 * The source runs these expressions and this side does the same without SQL
 * (row_hash.c), so what is called must give the same everywhere: the extended
 * hash functions of PostgreSQL 11 and later, fed with values that are the same
 * or with text that is.
 *
 * A row's hash is a chain: each column is hashed with the hash of those before
 * it as the seed, from the key on.  So a value counts with its place and its
 * row, and nothing is folded together but by the functions themselves.  Those
 * of 64-bit types look at 32 bits, both halves combined; such a value is
 * hashed a second time, by another part of it.  A key that is a single integer
 * needs no hash where another column follows: it is a seed as it is.
 *
 * A column is hashed as it is stored where its type has one form for each
 * value and a hash function (integers, text, uuid, timestamps); all else by
 * its text, which is exact: session settings that change it are pinned on both
 * sides, and enums appear as labels.
 *
 * Buckets are ranges of the key where that is a single integer, and the keys
 * of both sides are not too sparse: as keys are unique, no range can have more
 * rows than numbers, and the rows of those that differ are found by index.  For other
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
 * source_cast returns the cast to what a column's type is hashed as at the source,
 * where the column is of type, or, if that is InvalidOid, of one not known.  It may
 * be another one than the foreign table says, and comes here by its text, which
 * a cast to text need not give: not for char(n), boolean and inet.
 */
static char *
source_cast(const TypeHash *how, Oid type, const char *name)
{
	bool		text = how->type == TEXTOID || how->type == VARCHAROID;

	if (text && type != TEXTOID && type != VARCHAROID)
		return psprintf("(CASE WHEN %s IS NOT NULL THEN concat(%s) END) COLLATE \"C\"", name, name);
	if (how->type == BOOLOID && type != BOOLOID)
		return psprintf("%s::text::bool%s", name, how->cast);
	return psprintf("%s%s", name, how->cast);
}

/*
 * add_column returns the hash of a column, which the side calls name, on top
 * of a chain.  It is null only if the column is, and must not be.  type is
 * what the source has for it, if known: integer needs no cast, as equal integers
 * have equal hashes.  Null has the hash of what stands for it with all bits
 * turned over: with but one of them the hashes of two rows that differ so would
 * differ by one, up and down as often, and their sum not at all.
 */
static char *
add_column(RehomeMappedColumn *column, const char *name, bool source, Oid type, const char *chain)
{
	const TypeHash *how = type_hash(column);
	const char *function;
	char	   *value;
	char	   *hash;

	/* what is null has no text, and no other text begins like that */
	if (how == NULL)
		return psprintf("hashtextextended(concat(%s IS NULL, %s) COLLATE \"C\", %s)", name, name, chain);
	function = type == INT4OID && how->type == INT4OID ? "hashint4extended" : how->function;
	if (type == INT4OID && how->type == INT4OID)
		value = pstrdup(name);
	else
		value = source ? source_cast(how, type, name) : psprintf("%s%s", name, how->cast);
	if (column->notnull)
	{
		hash = psprintf("%s(%s, %s)", function, value, chain);
		if (how->function2 == NULL)
			return hash;
		/* there, what the second function is given can be null by itself */
		return psprintf("%s(coalesce(%s%s, %s), %s)", how->function2, name, how->cast2, how->null2, hash);
	}
	hash = psprintf("%s(coalesce(%s, %s), %s)", function, value, how->null, chain);
	if (how->function2 != NULL)
		hash = psprintf("%s(coalesce(%s%s, %s), %s)", how->function2, name, how->cast2, how->null2, hash);
	return psprintf("(%s # CASE WHEN %s IS NULL THEN (-1)::int8 ELSE 0::int8 END)", hash, name);
}

/*
 * chain_of returns the hash of the columns on top of a chain, null if one of
 * them is that must not be.  types is what the side has, by attnum - 1 at the
 * source, or NULL where that is not known.
 */
static char *
chain_of(RehomeMapping *mapping, List *columns, const char *prefix, bool source, const Oid *types,
		 const char *start)
{
	char	   *chain = pstrdup(start);
	ListCell   *lc;

	foreach(lc, columns)
	{
		RehomeMappedColumn *column = lfirst(lc);

		chain = add_column(column, rehome_hash_column(mapping, column, prefix, source), source,
						   types ? types[column->plain - 1] : InvalidOid, chain);
	}
	return chain;
}

/*
 * rehome_hash_key returns the expression of a row's key's hash with a seed,
 * another than that by which buckets are made.
 */
char *
rehome_hash_key(RehomeMapping *mapping, const char *prefix, bool source, int seed)
{
	return psprintf("coalesce(hashint8extended(%s, %d), 0)", chain_of(mapping, key_columns(mapping), prefix, source, NULL, "1"), seed);
}

/*
 * rehome_hash_order returns the key's columns and then the other ones, which
 * is the order they are hashed in.
 */
List *
rehome_hash_order(RehomeMapping *mapping, List *columns)
{
	List	   *key = key_columns(mapping);

	return list_concat(key, list_difference_ptr(columns, key));
}

/*
 * rehome_hash_chains returns how many chains the columns make.
 */
int
rehome_hash_chains(RehomeMapping *mapping, List *columns)
{
	int			others = list_length(rehome_hash_order(mapping, columns)) - mapping->nkey;

	return Max((others + REHOME_CHAIN_COLUMNS - 1) / REHOME_CHAIN_COLUMNS, 1);
}

/*
 * source_types returns the types that the source itself has for the columns
 * that are copied as they are, whatever the foreign table says; by attnum - 1.
 */
static Oid *
source_types(RehomeConn *conn, RehomeMapping *mapping)
{
	Oid		   *of_column = palloc0(sizeof(Oid) * mapping->source_desc->natts);
	StringInfoData sql;
	Oid		   *types;
	int		   *typmods;
	int			n = 0;

	initStringInfo(&sql);
	for (int c = 0; c < mapping->ncolumns; c++)
		if (mapping->columns[c].plain != 0)
			appendStringInfo(&sql, "%s%s", n++ > 0 ? ", " : "SELECT ",
							 rehome_hash_column(mapping, &mapping->columns[c], "source.", true));
	appendStringInfoString(&sql, " FROM ");
	rehome_remote_from(&sql, rehome_remote_table(mapping->map->source), NULL, false);
	rehome_conn_describe(conn, sql.data, n, &types, &typmods);
	n = 0;
	for (int c = 0; c < mapping->ncolumns; c++)
		if (mapping->columns[c].plain != 0)
			of_column[mapping->columns[c].plain - 1] = types[n++];
	return of_column;
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
 * add_ends widens low and high to the ends of one side; an empty one has none.
 */
static void
add_ends(RehomeRows *ends, bool *any, int64 *low, int64 *high)
{
	if (ends->value[0][0] == NULL)
		return;
	*low = *any ? Min(*low, rehome_int64(ends->value[0][0])) : rehome_int64(ends->value[0][0]);
	*high = *any ? Max(*high, rehome_int64(ends->value[0][1])) : rehome_int64(ends->value[0][1]);
	*any = true;
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
	RehomeMappedColumn *key = mapping->key[0];
	const char *name = quote_identifier(key->name);
	const char *there = rehome_hash_column(mapping, key, "source.", true);
	double		rows = estimated_rows(mapping->map->target);
	StringInfoData sql;
	bool		any = false;
	int64		low;
	int64		high;

	buckets->mapping = mapping;
	if (rows >= 0 && rows < RANGE_ROWS)
		return buckets;			/* to ask for its types takes longer than casts do */
	buckets->source_types = source_types(conn, mapping);
	if (mapping->nkey != 1 || !rehome_is_integer(getBaseType(key->type)) ||
		!rehome_is_integer(buckets->source_types[key->plain - 1]))
		return buckets;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT min(%s), max(%s) FROM ", there, there);
	rehome_remote_from(&sql, rehome_remote_table(mapping->map->source), NULL, false);
	add_ends(rehome_conn_query(conn, sql.data, ""), &any, &low, &high);
	add_ends(rehome_spi_as(owner, true, psprintf("SELECT min(%s), max(%s) FROM %s", name, name,
												 rehome_relation_name(mapping->map->target))),
			 &any, &low, &high);
	if (!any)
		return buckets;			/* without rows */
	while ((uint64) (high >> buckets->shift) - (uint64) (low >> buckets->shift) >= REHOME_BUCKETS)
		buckets->shift++;
	buckets->first = low >> buckets->shift;
	buckets->last = high >> buckets->shift;
	buckets->by_range = ldexp(1, buckets->shift) <=
		Max(RANGE_NUMBERS, RANGE_SPARSE * rows / REHOME_BUCKETS);
	return buckets;
}

/*
 * bucket_of returns the expression of a row's bucket: the range's number,
 * not counted from the first, where buckets are ranges.
 */
static char *
bucket_of(RehomeBuckets *buckets, const char *prefix, bool source)
{
	RehomeMapping *mapping = buckets->mapping;

	if (buckets->by_range)
		return psprintf("%s >> %d", rehome_hash_column(mapping, mapping->key[0], prefix, source), buckets->shift);
	return psprintf("(%s & %d)", chain_of(mapping, key_columns(mapping), prefix, source,
										  source ? buckets->source_types : NULL, "1"), REHOME_BUCKETS - 1);
}

/*
 * rehome_bucket_of_key returns the bucket of a key that is one of those the
 * ranges were made for.
 */
int
rehome_bucket_of_key(RehomeBuckets *buckets, int64 key)
{
	int64		range = key >> buckets->shift;

	if (range < buckets->first || range > buckets->last)
		elog(ERROR, "key " INT64_FORMAT " is in no range", key);
	return (int) (range - buckets->first);
}

/*
 * rehome_key_is_seed tells whether the chains of rows begin with the key as it
 * is, given how many other columns there are.
 */
bool
rehome_key_is_seed(RehomeBuckets *buckets, int others)
{
	return buckets->by_range && others > 0;
}

/*
 * rehome_buckets_query returns the SQL that sums up the source's rows, for
 * rehome_buckets_take().  from is a FROM clause and what follows it, in which
 * the table's columns have prefix.
 *
 * The subquery is to be planned by itself, which OFFSET sees to: a planner
 * cannot know how many buckets an expression makes, takes each row for one,
 * and would not sum up in parallel.  (Only as a constant is an OFFSET of zero
 * no obstacle to that.)
 */
char *
rehome_buckets_query(RehomeBuckets *buckets, List *columns, const char *prefix, const char *from)
{
	RehomeMapping *mapping = buckets->mapping;
	List	   *others = list_copy_tail(rehome_hash_order(mapping, columns), mapping->nkey);
	int			nchains = rehome_hash_chains(mapping, columns);
	bool		seed = rehome_key_is_seed(buckets, list_length(others));
	const char *start = seed ? psprintf("%s::int8", rehome_hash_column(mapping, mapping->key[0], prefix, true)) : "1";
	StringInfoData sums;
	StringInfoData hashes;

	initStringInfo(&sums);
	initStringInfo(&hashes);
	for (int i = 0; i < nchains; i++)
	{
		List	   *chain = seed ? NIL : key_columns(mapping);

		for (int c = i * REHOME_CHAIN_COLUMNS; c < Min((i + 1) * REHOME_CHAIN_COLUMNS, list_length(others)); c++)
			chain = lappend(chain, list_nth(others, c));
		/* a row whose hash is null is counted, which its sum does not agree with */
		appendStringInfo(&sums, ", coalesce(sum(hash%d), 0)", i);
		appendStringInfo(&hashes, ", %s AS hash%d",
						 chain_of(mapping, chain, prefix, true, buckets->source_types, start), i);
	}
	return psprintf("SELECT bucket, count(*)%s FROM (SELECT %s AS bucket%s FROM %s OFFSET '0'::bigint) AS hashed GROUP BY bucket",
					sums.data, bucket_of(buckets, prefix, true), hashes.data, from);
}

/*
 * low_bits returns an integer of any length modulo 2^64.
 */
static uint64
low_bits(const char *text)
{
	bool		negative = *text == '-';
	uint64		value = 0;

	for (text += negative; *text != '\0'; text++)
		value = value * 10 + (*text - '0');
	return negative ? -value : value;
}

/*
 * rehome_buckets_take returns the sums that are the result of
 * rehome_buckets_query().
 */
RehomeBucketSums *
rehome_buckets_take(RehomeBuckets *buckets, List *columns, RehomeRows *rows)
{
	RehomeBucketSums *sums = rehome_bucket_sums_new(buckets, columns);

	for (int i = 0; i < rows->n; i++)
	{
		char	  **value = rows->value[i];
		int			b = REHOME_NULL_BUCKET;

		if (value[0] != NULL && buckets->by_range)
			b = rehome_bucket_of_key(buckets, (int64) ((uint64) rehome_int64(value[0]) << buckets->shift));
		else if (value[0] != NULL)
			b = rehome_int(value[0]);
		sums->rows[b] = rehome_int64(value[1]);
		for (int chain = 0; chain < sums->nchains; chain++)
			sums->sums[b * sums->nchains + chain] = low_bits(value[2 + chain]);
	}
	return sums;
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
		appendStringInfo(&sql, "%s(%s >= '" INT64_FORMAT "'::int8 AND %s <= '" INT64_FORMAT "'::int8)",
						 sql.len ? " OR " : "", key, (int64) ((uint64) (buckets->first + from) << buckets->shift), key,
						 (int64) ((uint64) (buckets->first + to) << buckets->shift) + (((int64) 1 << buckets->shift) - 1));
		from = to;
	}
	if (buckets->differing[REHOME_NULL_BUCKET])
		appendStringInfo(&sql, "%s%s IS NULL", sql.len ? " OR " : "", key);
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
			appendStringInfo(&list, "%s" INT64_FORMAT, list.len ? "," : "", buckets->by_range ? buckets->first + b : b);
	return psprintf("((%s)::int8 = ANY ('{%s}'::int8[])%s)", bucket_of(buckets, prefix, source), list.data,
					buckets->differing[REHOME_NULL_BUCKET] ? psprintf(" OR %s IS NULL", key) : "");
}
