/*-------------------------------------------------------------------------
 *
 * round_trip.c
 *	  Whether rows of the source come back as they are: there by the rules,
 *	  and back by the inverses.
 *
 * A sample of rows is read through the foreign table.  Each goes through the
 * rules as in a copy, by the columns' error policies; what would not be at
 * the target is left out.  Then each inverse is evaluated, and what it gives
 * is sent the way changes go back: as text, which the source's type reads.
 * Values are the same if the type's own equality says so.
 *
 * Nothing is written.  An inverse that reads columns which no rule fills
 * cannot be tried, and is not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/redaction.h"
#include "copy/sieve.h"
#include "document/lint.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "monitor/round_trip.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* Rows of a table that are tried. */
#define SAMPLE_ROWS 1000

/* Rows fetched at once. */
#define FETCH_ROWS 100

/* Bytes of a value that are shown. */
#define SHOWN_BYTES 60

/* The way back of one source column. */
typedef struct Back
{
	ExprState  *state;			/* over the target's row; NULL: not tried */
	Form_pg_attribute att;		/* of the foreign table */
	FmgrInfo	output;			/* of what the inverse gives */
	FmgrInfo	input;			/* of the source's type */
	Oid			ioparam;
	TypeCacheEntry *type;
	char	   *text;			/* what it gave for the row at hand */
	Datum		value;			/* the same, as the source reads it */
} Back;

typedef struct Trip
{
	RehomeMapping *mapping;
	RehomeInverse *inverse;
	RehomeRoundTrip *result;
	Relation	source;
	Relation	target;
	EState	   *estate;
	ExprContext *econtext;
	TupleTableSlot *there;		/* a row of the source */
	TupleTableSlot *here;		/* the row of the target made of it */
	ExprState **rules;			/* of each mapped column */
	ExprState **instead;		/* its default, if that is its policy */
	Back	   *back;			/* of each column of the inverse */
	int			at;				/* column being evaluated */
	bool		redacted;		/* no values of the rows are to be shown */
} Trip;

/*
 * may_be_tried tells whether rules fill all that an inverse reads.
 */
static bool
may_be_tried(Trip *trip, Node *expr)
{
	ListCell   *lc;

	foreach(lc, rehome_expression_columns(expr, trip->target))
	{
		bool		filled = false;

		for (int c = 0; c < trip->mapping->ncolumns; c++)
			filled = filled || strcmp(trip->mapping->columns[c].name, lfirst(lc)) == 0;
		if (!filled)
			return false;
	}
	return true;
}

/*
 * prepare_back gets the inverse of a source column ready.
 */
static void
prepare_back(Trip *trip, Back *back, RehomeInverseColumn *column)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(trip->source), column->local);
	Node	   *expr;
	Oid			function;
	bool		varlena;

	if (!column->carried || attnum <= 0)
		return;
	expr = rehome_expression_parse(column->expression, trip->target, "target");
	if (!may_be_tried(trip, expr))
		return;
	back->att = TupleDescAttr(RelationGetDescr(trip->source), attnum - 1);
	back->type = lookup_type_cache(back->att->atttypid, TYPECACHE_EQ_OPR_FINFO);
	getTypeOutputInfo(exprType(expr), &function, &varlena);
	fmgr_info(function, &back->output);
	getTypeInputInfo(back->att->atttypid, &function, &back->ioparam);
	fmgr_info(function, &back->input);
	back->state = ExecInitExpr(expression_planner((Expr *) expr), NULL);
}

/*
 * prepare makes a trip ready for rows.
 */
static void
prepare(Trip *trip)
{
	RehomeMapping *mapping = trip->mapping;

	trip->estate = CreateExecutorState();
	trip->econtext = GetPerTupleExprContext(trip->estate);
	trip->there = MakeSingleTupleTableSlot(mapping->source_desc, &TTSOpsVirtual);
	trip->here = MakeSingleTupleTableSlot(RelationGetDescr(trip->target), &TTSOpsVirtual);
	trip->rules = palloc0(sizeof(ExprState *) * Max(mapping->ncolumns, 1));
	trip->instead = palloc0(sizeof(ExprState *) * Max(mapping->ncolumns, 1));
	for (int c = 0; c < mapping->ncolumns; c++)
	{
		trip->rules[c] = ExecInitExpr(mapping->columns[c].expr, NULL);
		if (mapping->columns[c].instead != NULL)
			trip->instead[c] = ExecInitExpr(mapping->columns[c].instead, NULL);
	}
	trip->back = palloc0(sizeof(Back) * Max(trip->inverse->ncolumns, 1));
	for (int i = 0; i < trip->inverse->ncolumns; i++)
		prepare_back(trip, &trip->back[i], &trip->inverse->columns[i]);
}

static void
evaluate_rule(void *arg)
{
	Trip	   *trip = arg;
	int			attnum = trip->mapping->columns[trip->at].attnum;

	trip->here->tts_values[attnum - 1] = ExecEvalExpr(trip->rules[trip->at], trip->econtext,
													  &trip->here->tts_isnull[attnum - 1]);
}

/*
 * go_there makes the target's row; false when it would not be there.
 */
static bool
go_there(Trip *trip)
{
	trip->econtext->ecxt_scantuple = trip->there;
	ExecClearTuple(trip->here);
	memset(trip->here->tts_isnull, true, sizeof(bool) * trip->here->tts_tupleDescriptor->natts);
	for (trip->at = 0; trip->at < trip->mapping->ncolumns; trip->at++)
	{
		RehomeMappedColumn *column = &trip->mapping->columns[trip->at];
		Datum	   *value = &trip->here->tts_values[column->attnum - 1];
		bool	   *isnull = &trip->here->tts_isnull[column->attnum - 1];
		ErrorData  *error = rehome_attempt(evaluate_rule, trip);

		if (error == NULL && !(*isnull && column->notnull))
			continue;
		if (error != NULL && !rehome_refusable(error->sqlerrcode))
			ReThrowError(error);
		*isnull = true;
		if (column->on_error == 'd' && trip->instead[trip->at] != NULL)
			*value = ExecEvalExpr(trip->instead[trip->at], trip->econtext, isnull);
		else if (column->on_error == 'q' || column->on_error == 'f')
			return false;
		if (*isnull && column->notnull)
			return false;
	}
	ExecStoreVirtualTuple(trip->here);
	return true;
}

static void
evaluate_back(void *arg)
{
	Trip	   *trip = arg;
	Back	   *back = &trip->back[trip->at];
	bool		isnull;
	Datum		value = ExecEvalExpr(back->state, trip->econtext, &isnull);

	back->text = isnull ? NULL : OutputFunctionCall(&back->output, value);
	back->value = InputFunctionCall(&back->input, back->text, back->ioparam, back->att->atttypmod);
}

/*
 * shown returns a value's text as messages have it.
 */
static char *
shown(const char *text)
{
	int			len;

	if (text == NULL)
		return pstrdup("null");
	len = pg_mbcliplen(text, strlen(text), SHOWN_BYTES);
	return psprintf("\"%s%s\"", pnstrdup(text, len), text[len] != '\0' ? "..." : "");
}

/*
 * note_lost notes that a value did not come back; of the first, how.
 */
static void
note_lost(Trip *trip, int i, ErrorData *error)
{
	Back	   *back = &trip->back[i];
	Datum		had = trip->there->tts_values[back->att->attnum - 1];
	bool		was_null = trip->there->tts_isnull[back->att->attnum - 1];
	Oid			output;
	bool		varlena;
	MemoryContext old;

	if (trip->result->lost[i]++ > 0)
		return;
	getTypeOutputInfo(back->att->atttypid, &output, &varlena);
	old = MemoryContextSwitchTo(GetMemoryChunkContext(trip->result));
	trip->result->example[i] = trip->redacted ? pstrdup(REHOME_REDACTED_MESSAGE) :
		psprintf("the row with key %s has %s, and %s", rehome_lint_source_key(trip->mapping->map, trip->there),
				 shown(was_null ? NULL : OidOutputFunctionCall(output, had)),
				 error ? psprintf("the way back raises: %s", error->message) :
				 psprintf("would get %s", shown(back->text)));
	MemoryContextSwitchTo(old);
}

/*
 * come_back tries all inverses on the target's row.
 */
static void
come_back(Trip *trip)
{
	trip->econtext->ecxt_scantuple = trip->here;
	for (trip->at = 0; trip->at < trip->inverse->ncolumns; trip->at++)
	{
		Back	   *back = &trip->back[trip->at];
		ErrorData  *error;
		Datum		had;
		bool		was_null;
		bool		same;

		if (back->state == NULL)
			continue;
		had = trip->there->tts_values[back->att->attnum - 1];
		was_null = trip->there->tts_isnull[back->att->attnum - 1];
		error = rehome_attempt(evaluate_back, trip);
		if (error != NULL && !rehome_refusable(error->sqlerrcode))
			ReThrowError(error);
		if (error != NULL)
			same = false;
		else if (was_null || back->text == NULL)
			same = was_null && back->text == NULL;
		else if (OidIsValid(back->type->eq_opr_finfo.fn_oid))
			same = DatumGetBool(FunctionCall2Coll(&back->type->eq_opr_finfo, back->att->attcollation,
												  had, back->value));
		else
		{
			Oid			output;
			bool		varlena;

			getTypeOutputInfo(back->att->atttypid, &output, &varlena);
			same = strcmp(OidOutputFunctionCall(output, had), OidOutputFunctionCall(output, back->value)) == 0;
		}
		if (!same)
			note_lost(trip, trip->at, error);
	}
}

/*
 * sample_query returns the query for the rows.
 */
static char *
sample_query(RehomeMapping *mapping)
{
	RehomeTableMap *map = mapping->map;

	return psprintf("SELECT %s FROM %s AS source WHERE (%s) LIMIT %d", rehome_source_row(mapping, NIL),
					rehome_relation_name(map->source), map->filter ? map->filter : "true", SAMPLE_ROWS);
}

/*
 * rehome_round_trip tries a sample of a table map's rows.  The caller is the
 * extension's owner; rows are read, and expressions evaluated, as the
 * migration's.
 */
RehomeRoundTrip *
rehome_round_trip(RehomeSlice *slice, RehomeInverse *inverse)
{
	RehomeTableMap *map = inverse->mapping->map;
	Trip		trip = {.mapping = inverse->mapping,.inverse = inverse};
	Portal		cursor;
	SPITupleTable *table;
	RehomeAs	as;

	trip.result = palloc0(sizeof(RehomeRoundTrip));
	trip.result->lost = palloc0(sizeof(int64) * Max(inverse->ncolumns, 1));
	trip.result->example = palloc0(sizeof(char *) * Max(inverse->ncolumns, 1));
	trip.redacted = rehome_redacted_columns(map->target) != NIL;
	rehome_become(&as, slice->migration->owner);
	trip.source = table_open(map->source, AccessShareLock);
	trip.target = table_open(map->target, AccessShareLock);
	prepare(&trip);
	cursor = rehome_cursor_open(sample_query(trip.mapping));
	while ((table = rehome_cursor_fetch(cursor, FETCH_ROWS)) != NULL)
	{
		for (uint64 i = 0; i < table->numvals; i++)
		{
			MemoryContext old;

			CHECK_FOR_INTERRUPTS();
			ResetPerTupleExprContext(trip.estate);
			old = MemoryContextSwitchTo(GetPerTupleMemoryContext(trip.estate));
			ExecClearTuple(trip.there);
			heap_deform_tuple(table->vals[i], table->tupdesc, trip.there->tts_values, trip.there->tts_isnull);
			ExecStoreVirtualTuple(trip.there);
			if (go_there(&trip))
			{
				trip.result->rows++;
				come_back(&trip);
			}
			MemoryContextSwitchTo(old);
		}
		SPI_freetuptable(table);
	}
	SPI_cursor_close(cursor);
	ExecDropSingleTupleTableSlot(trip.there);
	ExecDropSingleTupleTableSlot(trip.here);
	FreeExecutorState(trip.estate);
	table_close(trip.target, AccessShareLock);
	table_close(trip.source, AccessShareLock);
	rehome_become_self(&as);
	return trip.result;
}
