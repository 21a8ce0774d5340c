/*-------------------------------------------------------------------------
 *
 * row_hash.c
 *	  Hashing the rows of this side, without SQL.
 *
 * This does to each row what the SQL of hash.c has the other side do, in half
 * the time: the rows of the table, or of a query if only some are wanted, are
 * taken as they come, hashed and summed up by bucket.  Sums are those of the
 * other side modulo 2^64, as hashes are 64 bits wide.
 *
 * Were a hash ever not the same for equal values, nothing would be reported
 * that is not so: the rows of buckets that differ are compared one by one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "apply/apply.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "verify/hash.h"

/* How a column is hashed. */
typedef struct Column
{
	Oid			type;			/* base type */
	FmgrInfo	output;			/* of types that are hashed by their text */
	int			at;				/* where it is in a row, from 0 */
} Column;

/* What adds rows to sums. */
typedef struct Hasher
{
	RehomeBuckets *buckets;
	RehomeBucketSums *sums;
	int			ncolumns;		/* the key's come first */
	Column	   *columns;
	bool		key_is_seed;	/* as the other side has it */
	MemoryContext row;			/* reset for each row */
} Hasher;

/* What takes a query's rows. */
typedef struct HashReceiver
{
	DestReceiver pub;
	Hasher	   *hasher;
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
	return isnull ? ~hash : hash;
}

/*
 * key_range returns the bucket of a row where buckets are ranges, and its key
 * unless that is null.
 */
static inline int
key_range(Hasher *hasher, TupleTableSlot *slot, int64 *key)
{
	Column	   *column = hasher->columns;
	Datum		value = slot->tts_values[column->at];

	if (slot->tts_isnull[column->at])
		return REHOME_NULL_BUCKET;
	*key = column->type == INT2OID ? DatumGetInt16(value) :
		column->type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
	return rehome_bucket_of_key(hasher->buckets, *key);
}

/*
 * add_row adds a row to the sums of its bucket.
 */
static inline void
add_row(Hasher *hasher, TupleTableSlot *slot)
{
	RehomeBuckets *buckets = hasher->buckets;
	RehomeBucketSums *sums = hasher->sums;
	Column	   *column = hasher->columns;
	Column	   *others = column + buckets->mapping->nkey;
	Column	   *end = column + hasher->ncolumns;
	uint64		chain = 1;
	int64		key = 0;
	int			b = 0;
	MemoryContext old = MemoryContextSwitchTo(hasher->row);

	if (buckets->by_range)
		b = key_range(hasher, slot, &key);
	if (hasher->key_is_seed)
		chain = (uint64) key;
	else
		for (; column < others; column++)
			chain = hash_column(column, slot->tts_values[column->at], slot->tts_isnull[column->at], chain);
	if (!buckets->by_range)
		b = chain & (REHOME_BUCKETS - 1);
	sums->rows[b]++;
	column = others;
	for (int i = 0; i < sums->nchains; i++)
	{
		Column	   *last = Min(column + REHOME_CHAIN_COLUMNS, end);
		uint64		hash = chain;

		for (; column < last; column++)
			hash = hash_column(column, slot->tts_values[column->at], slot->tts_isnull[column->at], hash);
		sums->sums[b * sums->nchains + i] += hash;
	}
	MemoryContextSwitchTo(old);
	if (!hasher->row->isReset)
		MemoryContextReset(hasher->row);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	slot_getallattrs(slot);
	add_row(((HashReceiver *) self)->hasher, slot);
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
 * hasher_new returns what adds rows of the columns to sums of no rows.
 */
static Hasher *
hasher_new(RehomeBuckets *buckets, List *columns)
{
	List	   *order = rehome_hash_order(buckets->mapping, columns);
	Hasher	   *hasher = palloc0(sizeof(Hasher));
	ListCell   *lc;

	hasher->buckets = buckets;
	hasher->sums = rehome_bucket_sums_new(buckets, columns);
	hasher->columns = palloc0(sizeof(Column) * list_length(order));
	hasher->row = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome hashed row", ALLOCSET_SMALL_SIZES);
	foreach(lc, order)
	{
		RehomeMappedColumn *mapped = lfirst(lc);
		Column	   *column = &hasher->columns[hasher->ncolumns];
		Oid			function;
		bool		varlena;

		column->at = hasher->ncolumns++;
		column->type = getBaseType(mapped->type);
		getTypeOutputInfo(mapped->type, &function, &varlena);
		fmgr_info(function, &column->output);
	}
	hasher->key_is_seed = rehome_key_is_seed(buckets, hasher->ncolumns - buckets->mapping->nkey);
	return hasher;
}

static RehomeBucketSums *
hasher_end(Hasher *hasher)
{
	MemoryContextDelete(hasher->row);
	return hasher->sums;
}

/*
 * rehome_hash_query sums up the rows of this side that a query gives, under
 * the active snapshot and as owner.  from is a FROM clause and what follows
 * it, in which the table's columns have prefix.
 */
RehomeBucketSums *
rehome_hash_query(RehomeBuckets *buckets, Oid owner, List *columns, const char *prefix, const char *from)
{
	Hasher	   *hasher = hasher_new(buckets, columns);
	HashReceiver receiver = {
		.pub = {receive_row, start_rows, end_rows, end_rows, DestNone},
		.hasher = hasher,
	};
	SPIExecuteOptions options = {.read_only = true,.dest = &receiver.pub};
	StringInfoData sql;
	ListCell   *lc;
	RehomeAs	as;
	MemoryContext context = CurrentMemoryContext;
	int			rc;

	initStringInfo(&sql);
	foreach(lc, rehome_hash_order(buckets->mapping, columns))
		appendStringInfo(&sql, "%s%s", sql.len > 0 ? ", " : "SELECT ",
						 rehome_hash_column(buckets->mapping, lfirst(lc), prefix, false));
	appendStringInfo(&sql, " FROM %s", from);
	rehome_become(&as, owner);
	rc = SPI_execute_extended(sql.data, &options);
	rehome_become_self(&as);
	MemoryContextSwitchTo(context); /* SPI leaves us in its own */
	if (rc < 0)
		elog(ERROR, "SPI failed on \"%s\": %s", sql.data, SPI_result_code_string(rc));
	return hasher_end(hasher);
}

/*
 * scannable tells whether what owner reads of a table by SQL is all of its
 * stored rows, with all columns stored: no descendants, no policies, nothing
 * forbidden, nothing computed.
 */
static bool
scannable(Relation rel, Oid owner)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (!rehome_sees_stored(rel, owner, ACL_SELECT))
		return false;
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attgenerated != '\0' &&
			TupleDescAttr(desc, i)->attgenerated != ATTRIBUTE_GENERATED_STORED)
			return false;
	return true;
}

/*
 * rehome_hash_table sums up all rows of the target, under the active snapshot.
 * A table that owner sees as it is stored is scanned without the executor.
 */
RehomeBucketSums *
rehome_hash_table(RehomeBuckets *buckets, Oid owner, List *columns)
{
	Oid			relid = buckets->mapping->map->target;
	Relation	rel = table_open(relid, AccessShareLock);
	Hasher	   *hasher;
	TupleTableSlot *slot;
	TableScanDesc scan;
	int			last = 0;
	int			n = 0;
	ListCell   *lc;
	RehomeAs	as;

	if (!scannable(rel, owner))
	{
		table_close(rel, NoLock);
		return rehome_hash_query(buckets, owner, columns, "t.", psprintf("%s AS t", rehome_relation_name(relid)));
	}
	hasher = hasher_new(buckets, columns);
	foreach(lc, rehome_hash_order(buckets->mapping, columns))
	{
		AttrNumber	attnum = get_attnum(relid, ((RehomeMappedColumn *) lfirst(lc))->name);

		hasher->columns[n++].at = attnum - 1;
		last = Max(last, attnum);
	}
	rehome_become(&as, owner);	/* types have functions */
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getsomeattrs(slot, last);
		add_row(hasher, slot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	rehome_become_self(&as);
	table_close(rel, NoLock);
	return hasher_end(hasher);
}
