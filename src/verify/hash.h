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

/* How the rows of a table are put in buckets, and which of these differ. */
typedef struct RehomeBuckets
{
	RehomeMapping *mapping;
	bool		by_range;		/* of the key, an integer; else by its hash */
	int64		low;			/* the smallest key at the target */
	int64		high;			/* the largest */
	int			shift;			/* keys of a range: 1 << shift */
	bool		differing[REHOME_BUCKETS];
	bool		outside;		/* the source has keys beyond low and high */
} RehomeBuckets;

/* What bucket_of() says of a key beyond low and high. */
#define REHOME_OUTSIDE (-1)

extern bool rehome_hash_possible(RehomeConn *conn, RehomeMapping *mapping, List *columns);
extern char *rehome_hash_key(RehomeMapping *mapping, const char *prefix, bool source, int seed);
extern char *rehome_hash_sum(RehomeMapping *mapping, List *columns, const char *prefix, bool source);
extern const char *rehome_hash_column(RehomeMapping *mapping, RehomeMappedColumn *column,
									  const char *prefix, bool source);

extern RehomeBuckets *rehome_buckets_choose(RehomeConn *conn, Oid owner, RehomeMapping *mapping);
extern char *rehome_bucket_of(RehomeBuckets *buckets, const char *prefix, bool source);
extern char *rehome_buckets_condition(RehomeBuckets *buckets, const char *prefix, bool source);

#endif							/* REHOME_HASH_H */
