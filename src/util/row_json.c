/*-------------------------------------------------------------------------
 *
 * row_json.c
 *	  Rows as JSON that jsonb takes.
 *
 * Rows are kept as jsonb: in quarantine, as drift, as discrepancies.  Not all
 * that json takes has a place there: not \u0000, not half of a surrogate pair,
 * no number that numeric cannot hold.  A row that has such a value, however deep
 * in arrays, composites and domains, is to be kept all the same: the column is
 * its text instead.
 *
 * Most rows cannot have one, which their types tell; nothing is tried for them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "util/attempt.h"
#include "util/row_json.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/*
 * is_safe tells whether jsonb takes every value of a type.  One that is not
 * built in may have a cast to json.
 */
static bool
is_safe(Oid type)
{
	Oid			element;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		type = getBaseType(element);
	return type < FirstNormalObjectId && type != JSONOID && get_typtype(type) != TYPTYPE_COMPOSITE &&
		get_typtype(type) != TYPTYPE_PSEUDO;
}

/*
 * whole_json returns a row as row_to_json() does.
 */
static char *
whole_json(TupleDesc desc, Datum *values, bool *nulls)
{
	HeapTuple	tuple;
	Datum		json;

	desc = BlessTupleDesc(desc);
	tuple = heap_form_tuple(desc, values, nulls);
	json = DirectFunctionCall1(row_to_json, heap_copy_tuple_as_datum(tuple, desc));
	heap_freetuple(tuple);
	return text_to_cstring(DatumGetTextPP(json));
}

static void
parse(void *json)
{
	(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/*
 * is_taken tells whether jsonb takes it.
 */
static bool
is_taken(char *json)
{
	ErrorData  *error = rehome_attempt(parse, json);

	if (error == NULL)
		return true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		ReThrowError(error);
	return false;
}

/*
 * column_is_taken tells the same of one column of a row.
 */
static bool
column_is_taken(TupleDesc desc, int i, Datum *values, bool *nulls)
{
	TupleDesc	one;

	if (nulls[i] || is_safe(TupleDescAttr(desc, i)->atttypid))
		return true;
	one = CreateTemplateTupleDesc(1);
	TupleDescCopyEntry(one, 1, desc, i + 1);
	return is_taken(whole_json(one, &values[i], &nulls[i]));
}

/*
 * rehome_row_json returns a row as JSON that jsonb takes.  It runs functions
 * of its types, as the current user.
 */
char *
rehome_row_json(TupleDesc desc, Datum *values, bool *nulls)
{
	char	   *json = whole_json(desc, values, nulls);
	bool		safe = true;
	TupleDesc	shape;
	Datum	   *shown;

	for (int i = 0; i < desc->natts; i++)
		safe = safe && (nulls[i] || is_safe(TupleDescAttr(desc, i)->atttypid));
	if (safe || is_taken(json))
		return json;

	shape = CreateTupleDescCopy(desc);
	shape->tdtypeid = RECORDOID;
	shape->tdtypmod = -1;
	shown = palloc(sizeof(Datum) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			output;
		bool		varlena;

		shown[i] = values[i];
		if (column_is_taken(desc, i, values, nulls))
			continue;
		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
		shown[i] = CStringGetTextDatum(OidOutputFunctionCall(output, values[i]));
		TupleDescInitEntry(shape, i + 1, pstrdup(NameStr(TupleDescAttr(desc, i)->attname)), TEXTOID, -1, 0);
	}
	return whole_json(shape, shown, nulls);
}

/*
 * rehome_record_json does so with a composite value.
 */
char *
rehome_record_json(Datum record)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(record);
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header),.t_data = header};
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(&tuple, desc, values, nulls);
	return rehome_row_json(desc, values, nulls);
}
