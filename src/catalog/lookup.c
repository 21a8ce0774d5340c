/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  Rules that look a value up in a crosswalk: a table of this database that
 *	  says which key of the target stands for which key of the source.
 *
 * The plan is kept for as long as the expression it is part of.  The table is
 * read under the active snapshot, with the rights of whoever evaluates the
 * rule: the migration's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "errors.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mapping/mapping.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

typedef struct Lookup
{
	SPIPlanPtr	plan;
	Oid			table;
	NameData	from;
	NameData	to;
} Lookup;

static void
drop_plan(void *lookup)
{
	if (((Lookup *) lookup)->plan != NULL)
		SPI_freeplan(((Lookup *) lookup)->plan);
}

static AttrNumber
require_column(Oid table, Name column)
{
	AttrNumber	attnum = get_attnum(table, NameStr(*column));

	if (attnum <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("column \"%s\" of crosswalk \"%s\" does not exist", NameStr(*column),
					   get_rel_name(table)));
	return attnum;
}

static Lookup *
prepare(FunctionCallInfo fcinfo)
{
	Lookup	   *lookup = fcinfo->flinfo->fn_extra;
	Oid			table = PG_GETARG_OID(1);
	Name		from = PG_GETARG_NAME(2);
	Name		to = PG_GETARG_NAME(3);
	Oid			text_type = TEXTOID;
	MemoryContextCallback *callback;
	SPIPlanPtr	plan;
	AttrNumber	attnum;
	Oid			type;

	if (lookup != NULL && lookup->table == table && strcmp(NameStr(lookup->from), NameStr(*from)) == 0 &&
		strcmp(NameStr(lookup->to), NameStr(*to)) == 0)
		return lookup;
	if (get_rel_name(table) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("crosswalk with OID %u does not exist", table));
	attnum = require_column(table, from);
	type = get_atttype(table, attnum);
	(void) require_column(table, to);
	plan = SPI_prepare(psprintf("SELECT %s::pg_catalog.text FROM %s WHERE %s %s $1::%s LIMIT 2",
								quote_identifier(NameStr(*to)), rehome_relation_name(table),
								quote_identifier(NameStr(*from)), rehome_equality_operator(table, attnum),
								format_type_be_qualified(type)),
					   1, &text_type);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare a lookup: %s", SPI_result_code_string(SPI_result));
	if (lookup == NULL)
	{
		lookup = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Lookup));
		callback = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(MemoryContextCallback));
		callback->func = drop_plan;
		callback->arg = lookup;
		MemoryContextRegisterResetCallback(fcinfo->flinfo->fn_mcxt, callback);
		fcinfo->flinfo->fn_extra = lookup;
	}
	else if (lookup->plan != NULL)
		SPI_freeplan(lookup->plan);
	lookup->plan = plan;
	lookup->table = table;
	lookup->from = *from;
	lookup->to = *to;
	return lookup;
}

PG_FUNCTION_INFO_V1(rehome_rule_lookup);

/*
 * rehome_rule_lookup(value text, crosswalk regclass, from name, to name)
 * returns what the crosswalk has for a value; null when it has nothing.
 */
Datum
rehome_rule_lookup(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		value = PG_GETARG_DATUM(0);
	Lookup	   *lookup;
	char	   *found = NULL;
	MemoryContext old;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	lookup = prepare(fcinfo);
	if (SPI_execute_plan(lookup->plan, &value, NULL, true, 2) != SPI_OK_SELECT)
		elog(ERROR, "lookup failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_processed > 1)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_REFUSED),
				errmsg("value stands more than once in crosswalk \"%s\": \"%s\"",
					   get_rel_name(lookup->table), TextDatumGetCString(value)));
	if (SPI_processed == 1)
	{
		found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		old = MemoryContextSwitchTo(context);
		found = found ? pstrdup(found) : NULL;
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	if (found == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(found));
}
