/*-------------------------------------------------------------------------
 *
 * turn.h
 *	  One table's turn in a batch from source to target.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_TURN_H
#define REHOME_TURN_H

#include "apply/apply.h"
#include "apply/repartition.h"
#include "copy/reader.h"
#include "copy/sieve.h"

/*
 * Rows from which on a batch, or what it leaves behind, is worth a second
 * session: one costs as much as some hundreds of them.
 */
#define REHOME_MANY_ROWS 5000

/* The sessions at the source that are on the batch's snapshot. */
typedef struct RehomeSessions
{
	RehomeConn *conn;			/* the batch's own */
	RehomeConn *second;			/* NULL until it is wanted */
	char	   *snapshot;		/* exported by the first; NULL: no second is to be had */
	List	   *maps;			/* whose tables are read: the first has them locked */
} RehomeSessions;

typedef struct RehomeTurn
{
	RehomeSlice *slice;
	RehomeTableMap *map;
	char		flag;			/* what the poll says of it */
	bool		seems_empty;	/* to the source's planner, which would go through all keys for each row */
	RehomeRepartition *moved;	/* partitions that came or went; NULL: none did, or all is read */
	MemoryContext context;		/* all that follows */
	RehomeMapping *mapping;
	bool		everything;		/* truncated, say: all there is is read */
	Tuplestorestate *present;	/* the keys read, where what is gone is found by them */
	int64		npresent;
	bool		by_parts;		/* rows may be applied while others are read */
	Tuplestorestate *gone;
	int64		ngone;
	Tuplestorestate *rows;		/* on hand */
	int64		nrows;
	int64		nread;			/* applied */
	int64		touched;		/* rows changed at the target */
	RehomeSieve *sieve;			/* for rows that may be refused, or NULL */
	RehomeSessions *sessions;
	RehomeConn *conn;			/* where its rows are read */
	RehomeReader *ahead;		/* the source has been asked for them already, or NULL */
	struct RehomeTurn *next;	/* whose rows are still to be asked for meanwhile, or NULL */
	int64		earlier;		/* rows of the batch before its turn */
} RehomeTurn;

extern RehomeTurn *rehome_turn_begin(RehomeSlice *slice, RehomeTableMap *map, char flag,
									 RehomeRepartition *moved, RehomeSessions *sessions);
extern bool rehome_turn_take(RehomeTurn *turn, RehomeTurn *next, bool locked, bool *checked,
							 RehomeBatch *batch);
extern void rehome_turn_end(RehomeTurn *turn);

/* The position a table is at: the slice's, unless it catches up after a pause. */
static inline char *
rehome_position_of(RehomeSlice *slice, RehomeTableMap *map)
{
	return map->position ? map->position : slice->position;
}

#endif							/* REHOME_TURN_H */
