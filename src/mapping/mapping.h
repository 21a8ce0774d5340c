/*-------------------------------------------------------------------------
 *
 * mapping.h
 *	  Compiled table maps: what copy, sync and verification evaluate.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_MAPPING_H
#define REHOME_MAPPING_H

#include "access/tupdesc.h"
#include "catalog/migration.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"

/* One column of a compiled map. */
typedef struct RehomeMappedColumn
{
	char	   *name;
	AttrNumber	attnum;			/* in the target */
	Oid			type;			/* of the target column */
	int32		typmod;
	Oid			collation;
	Expr	   *expr;			/* over the source row, coerced to the type */
	AttrNumber	plain;			/* source attnum if a bare column of the same type, else 0 */
	char	   *expression;		/* its SQL */
	bool		identity_always;
	int			key;			/* position in the key, from 1; 0: not in it */
	char	   *equal;			/* equality operator of a key column, as SQL */
	RehomeColumnMap *map;
	bool		notnull;
	char		on_error;		/* f(ail), n(ull), d(efault), q(uarantine) */
	Expr	   *instead;		/* its default, if that is what an error gives */
} RehomeMappedColumn;

typedef struct RehomeMapping
{
	RehomeTableMap *map;
	TupleDesc	source_desc;
	TupleDesc	mapped_desc;	/* the mapped columns, in order */
	TupleDesc	key_desc;		/* the key columns, in key order */
	int			ncolumns;
	RehomeMappedColumn *columns;
	int			nkey;
	RehomeMappedColumn **key;
	Bitmapset  *looser;			/* of the key, from 0: may take two values of the source for one */
	Bitmapset  *needed;			/* source attnums any expression reads */
	bool		all_plain;
	bool		tolerant;		/* some rows may be refused without an error */
	struct RehomeSieve *sieve;	/* where refused rows go; set by who moves rows */
	struct _SPI_plan *merge;	/* kept between the parts of a batch (apply.c) */
	int64		merged;			/* rows of the batch that were merged */
	int64		merged_before;	/* and of these, before that was planned */
	struct Tuplestorestate *respelled;	/* keys that are gone, as they are spelled, of rows that may not be (taken.c) */
	int64		nrespelled;
	bool		looked_deferred;	/* whether the next is known (apply.c) */
	bool		deferred;		/* a constraint of the target is checked later */
} RehomeMapping;

/* A projection of source rows, ready to run. */
typedef struct RehomeProjector
{
	EState	   *estate;
	ExprContext *econtext;
	TupleTableSlot *source;		/* fill values and nulls, then project */
	TupleTableSlot *result;
	ProjectionInfo *projection;
	ProjectionInfo *share;		/* values that validations look at, or NULL */
	TupleTableSlot *shared;		/* the inner row that has them */
	List	   *targetlist;
	RehomeMappedColumn **column;	/* of each entry; NULL: no mapped column */
	ExprState **single;			/* each entry by itself, made when needed */
	ExprState **instead;
} RehomeProjector;

extern RehomeMapping *rehome_mapping_compile(RehomeTableMap *map, Oid owner);
extern List *rehome_mapping_source_columns(RehomeMapping *mapping);
extern List *rehome_mapping_reads(RehomeMapping *mapping, List *targets);
extern List *rehome_mapping_source_key(RehomeMapping *mapping);
extern Bitmapset *rehome_mapping_source_spelled(RehomeMapping *mapping);
extern Bitmapset *rehome_mapping_source_spellings(RehomeMapping *mapping);
extern Bitmapset *rehome_mapping_target_spelled(RehomeMapping *mapping);
extern Node *rehome_expression_parse(const char *text, Relation rel, const char *alias);
extern Node *rehome_expression_parse_value(const char *text, Relation rel, const char *alias,
										   Node *value);
extern char *rehome_expression_deparse(Node *expr, Relation rel, const char *alias);
extern bool rehome_is_integer(Oid type);
extern bool rehome_is_by_letter(Oid type, Oid collation);
extern Node *rehome_expression_assign(Node *expr, Oid type, int32 typmod);
extern Node *rehome_expression_coerce(Node *expr, Relation target, AttrNumber attnum);
extern List *rehome_expression_columns(Node *expr, Relation rel);
extern char *rehome_operator_name(Oid operator);
extern char *rehome_equality_operator(Oid relid, AttrNumber attnum);

extern RehomeProjector *rehome_projector_full(RehomeMapping *mapping, Relation target);
extern RehomeProjector *rehome_projector_mapped(RehomeMapping *mapping);
extern RehomeProjector *rehome_projector_key(RehomeMapping *mapping);
extern char *rehome_source_row(RehomeMapping *mapping, List *needed);
extern TupleTableSlot *rehome_project(RehomeProjector *projector);
extern bool rehome_project_complete(RehomeProjector *projector);
extern void rehome_projector_end(RehomeProjector *projector);

#endif							/* REHOME_MAPPING_H */
