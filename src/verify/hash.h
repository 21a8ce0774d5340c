/*-------------------------------------------------------------------------
 *
 * hash.h
 *	  SQL that hashes rows, and the buckets their hashes are summed up in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_HASH_H
#define REHOME_HASH_H

#include "mapping/mapping.h"
#include "remote/connection.h"

/* Up to so many buckets. */
#define REHOME_BUCKETS 16384
/* The bucket of rows whose key is null, where buckets are ranges. */
#define REHOME_NULL_BUCKET REHOME_BUCKETS

/*
 * Columns in one chain.  A parser takes stack for each level of an expression,
 * so wide tables have several, each on top of the key's.
 */
#define REHOME_CHAIN_COLUMNS 40

/* How the rows of a table are put in buckets, and which of these differ. */
typedef struct RehomeBuckets
{
	RehomeMapping *mapping;
	Oid		   *source_types;	/* what the source itself has, by attnum - 1; or NULL */
	bool		by_range;		/* of the key, an integer; else by its hash */
	int			shift;			/* keys of a range: 1 << shift */
	int64		first;			/* the first range: its keys >> shift */
	int64		last;
	bool		differing[REHOME_BUCKETS + 1];
} RehomeBuckets;

/* What the rows of one side come to. */
typedef struct RehomeBucketSums
{
	int			nchains;
	int64	   *rows;			/* by bucket */
	uint64	   *sums;			/* of the hashes, modulo 2^64: nchains a bucket */
} RehomeBucketSums;

extern bool rehome_hash_possible(RehomeConn *conn, RehomeMapping *mapping, List *columns);
extern char *rehome_hash_key(RehomeMapping *mapping, const char *prefix, bool source, int seed);
extern const char *rehome_hash_column(RehomeMapping *mapping, RehomeMappedColumn *column,
									  const char *prefix, bool source);
extern List *rehome_hash_order(RehomeMapping *mapping, List *columns);
extern int	rehome_hash_chains(RehomeMapping *mapping, List *columns);

extern RehomeBuckets *rehome_buckets_choose(RehomeConn *conn, Oid owner, RehomeMapping *mapping);
extern int	rehome_bucket_of_key(RehomeBuckets *buckets, int64 key);
extern bool rehome_key_is_seed(RehomeBuckets *buckets, int others);
extern char *rehome_buckets_query(RehomeBuckets *buckets, List *columns, const char *prefix, const char *from);
extern RehomeBucketSums *rehome_buckets_take(RehomeBuckets *buckets, List *columns, RehomeRows *rows);
extern char *rehome_buckets_condition(RehomeBuckets *buckets, const char *prefix, bool source);

/* row_hash.c */
extern RehomeBucketSums *rehome_bucket_sums_new(RehomeBuckets *buckets, List *columns);
extern RehomeBucketSums *rehome_hash_query(RehomeBuckets *buckets, Oid owner, List *columns,
										   const char *prefix, const char *from);
extern RehomeBucketSums *rehome_hash_table(RehomeBuckets *buckets, Oid owner, List *columns);

#endif							/* REHOME_HASH_H */
