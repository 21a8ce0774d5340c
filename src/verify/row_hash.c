/*-------------------------------------------------------------------------
 *
 * row_hash.c
 *	  Hashing the rows of this side, without SQL.
 *
 * This does to each row what the SQL of hash.c has the other side do, in half
 * the time: a query's rows are taken as they come, hashed and summed up by
 * bucket.  Sums are those of the other side modulo 2^64, as hashes are 64 bits
 * wide.
 *
 * Were a hash ever not the same for equal values, nothing would be reported
 * that is not so: the rows of buckets that differ are compared one by one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "tcop/dest.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "verify/hash.h"

/* How a column is hashed. */
typedef struct Column
{
	Oid			type;			/* base type */
	FmgrInfo	output;			/* of types that are hashed by their text */
} Column;

typedef struct HashReceiver
{
	DestReceiver pub;
	RehomeBuckets *buckets;
	RehomeBucketSums *sums;
	int			ncolumns;		/* the key's come first */
	Column	   *columns;
	MemoryContext row;			/* reset for each row */
} HashReceiver;

/*
 * hash_int64 is hashint8extended(), without a call: both halves count, in a
 * way that gives equal integers of any type the same.
 */
static inline uint64
hash_int64(int64 value, uint64 seed)
{
	uint32		low = (uint32) value;
	uint32		high = (uint32) ((uint64) value >> 32);

	return hash_bytes_uint32_extended(low ^ (value >= 0 ? high : ~high), seed);
}

static inline uint64
hash_bytes_of(const void *bytes, int length, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) bytes, length, seed);
}

/*
 * hash_text hashes what is hashed by its text: t or f for whether it is null,
 * and the text.
 */
static uint64
hash_text(Column *column, Datum value, bool isnull, uint64 seed)
{
	StringInfoData text;

	if (isnull)
		return hash_bytes_of("t", 1, seed);
	initStringInfo(&text);
	appendStringInfoChar(&text, 'f');
	appendStringInfoString(&text, OutputFunctionCall(&column->output, value));
	return hash_bytes_of(text.data, text.len, seed);
}

/*
 * hash_column returns the hash of a value on top of a chain, as add_column()
 * in hash.c puts it.
 */
static uint64
hash_column(Column *column, Datum value, bool isnull, uint64 chain)
{
	uint64		hash;

	switch (column->type)
	{
		case BOOLOID:
			hash = hash_int64(isnull ? 0 : DatumGetBool(value), chain);
			break;
		case INT2OID:
			hash = hash_int64(isnull ? 0 : DatumGetInt16(value), chain);
			break;
		case INT4OID:
			hash = hash_int64(isnull ? 0 : DatumGetInt32(value), chain);
			break;
		case INT8OID:
			hash = hash_int64(isnull ? 0 : DatumGetInt64(value), chain);
			hash = hash_int64(isnull ? 0 : DatumGetInt64(value) >> 32, hash);
			break;
		case TEXTOID:
		case VARCHAROID:
			if (isnull)
				hash = hash_bytes_of("", 0, chain);
			else
			{
				text	   *string = DatumGetTextPP(value);

				hash = hash_bytes_of(VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string), chain);
			}
			break;
		case UUIDOID:
			{
				pg_uuid_t	none = {{0}};

				hash = hash_bytes_of(isnull ? none.data : DatumGetUUIDP(value)->data, UUID_LEN, chain);
				break;
			}
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			{
				/* TimeZone is UTC: the same microseconds; null is the epoch */
				Timestamp	at = isnull ? SetEpochTimestamp() : DatumGetTimestamp(value);
				TimeADT		time = 0;

				hash = hash_int64(at, chain);
				if (!isnull && !TIMESTAMP_NOT_FINITE(at))
					time = DatumGetTimeADT(DirectFunctionCall1(timestamp_time, TimestampGetDatum(at)));
				hash = hash_int64(time, hash);
				break;
			}
		default:
			return hash_text(column, value, isnull, chain);
	}
	return isnull ? hash ^ 1 : hash;
}

/*
 * receive_row adds a row to the sums of its bucket.
 */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	HashReceiver *receiver = (HashReceiver *) self;
	RehomeBuckets *buckets = receiver->buckets;
	RehomeBucketSums *sums = receiver->sums;
	int			nkey = buckets->mapping->nkey;
	uint64		key = 1;
	int			b;
	MemoryContext old;

	slot_getallattrs(slot);
	old = MemoryContextSwitchTo(receiver->row);
	for (int c = 0; c < nkey; c++)
		key = hash_column(&receiver->columns[c], slot->tts_values[c], slot->tts_isnull[c], key);
	if (!buckets->by_range)
		b = key & (REHOME_BUCKETS - 1);
	else if (slot->tts_isnull[0])
		b = REHOME_NULL_BUCKET;
	else
	{
		Oid			type = receiver->columns[0].type;
		Datum		value = slot->tts_values[0];

		b = rehome_bucket_of_key(buckets, type == INT2OID ? DatumGetInt16(value) :
								 type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value));
	}
	sums->rows[b]++;
	for (int chain = 0, c = nkey; chain < sums->nchains; chain++)
	{
		uint64		hash = key;

		for (int end = Min(c + REHOME_CHAIN_COLUMNS, receiver->ncolumns); c < end; c++)
			hash = hash_column(&receiver->columns[c], slot->tts_values[c], slot->tts_isnull[c], hash);
		sums->sums[b * sums->nchains + chain] += hash;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(receiver->row);
	return true;
}

static void
start_rows(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
end_rows(DestReceiver *self)
{
}

/*
 * rehome_bucket_sums_new returns the sums of no rows.
 */
RehomeBucketSums *
rehome_bucket_sums_new(RehomeBuckets *buckets, List *columns)
{
	RehomeBucketSums *sums = palloc(sizeof(RehomeBucketSums));

	sums->nchains = rehome_hash_chains(buckets->mapping, columns);
	sums->rows = palloc0(sizeof(int64) * (REHOME_BUCKETS + 1));
	sums->sums = palloc0(sizeof(uint64) * (REHOME_BUCKETS + 1) * sums->nchains);
	return sums;
}

/*
 * rehome_hash_rows sums up the rows of this side, under the active snapshot
 * and as owner.  from is a FROM clause and what follows it, in which the
 * table's columns have prefix.
 */
RehomeBucketSums *
rehome_hash_rows(RehomeBuckets *buckets, Oid owner, List *columns, const char *prefix, const char *from)
{
	List	   *order = rehome_hash_order(buckets->mapping, columns);
	HashReceiver *receiver = palloc0(sizeof(HashReceiver));
	SPIExecuteOptions options = {0};
	StringInfoData sql;
	ListCell   *lc;
	RehomeAs	as;
	MemoryContext context = CurrentMemoryContext;
	int			rc;

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_rows;
	receiver->pub.rShutdown = end_rows;
	receiver->pub.rDestroy = end_rows;
	receiver->pub.mydest = DestNone;
	receiver->buckets = buckets;
	receiver->sums = rehome_bucket_sums_new(buckets, columns);
	receiver->columns = palloc0(sizeof(Column) * list_length(order));
	receiver->row = AllocSetContextCreate(context, "pg_rehome hashed row", ALLOCSET_SMALL_SIZES);
	initStringInfo(&sql);
	foreach(lc, order)
	{
		RehomeMappedColumn *mapped = lfirst(lc);
		Column	   *column = &receiver->columns[receiver->ncolumns++];
		Oid			function;
		bool		varlena;

		column->type = getBaseType(mapped->type);
		getTypeOutputInfo(mapped->type, &function, &varlena);
		fmgr_info(function, &column->output);
		appendStringInfo(&sql, "%s%s", sql.len > 0 ? ", " : "SELECT ",
						 rehome_hash_column(buckets->mapping, mapped, prefix, false));
	}
	appendStringInfo(&sql, " FROM %s", from);

	options.read_only = true;
	options.dest = &receiver->pub;
	rehome_become(&as, owner);
	rc = SPI_execute_extended(sql.data, &options);
	rehome_become_self(&as);
	MemoryContextSwitchTo(context); /* SPI leaves us in its own */
	if (rc < 0)
		elog(ERROR, "SPI failed on \"%s\": %s", sql.data, SPI_result_code_string(rc));
	MemoryContextDelete(receiver->row);
	return receiver->sums;
}
