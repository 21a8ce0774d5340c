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
 * jsonb takes no more than 256 MB either, of a string as of a whole.  What is too
 * large for it is cut, column by column, and says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "util/attempt.h"
#include "util/row_json.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* A row of fewer bytes is not too large for jsonb, however its values are written. */
#define SMALL_ROW (1024 * 1024)

/* JSON of so many bytes is, with what is stored along with it. */
#define LARGE_JSON (128 * 1024 * 1024)

/* What is left of a column that is cut; a row may have 1,600. */
#define CUT_BYTES (64 * 1024)

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

/* A row that is tried, and its JSON if that has a place in jsonb. */
typedef struct Tried
{
	TupleDesc	desc;
	Datum	   *values;
	bool	   *nulls;
	char	   *json;
} Tried;

static void
try_row(void *arg)
{
	Tried	   *tried = arg;
	char	   *json = whole_json(tried->desc, tried->values, tried->nulls);

	if (strlen(json) > LARGE_JSON)
		return;
	(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
	tried->json = json;
}

/*
 * taken_json returns a row as JSON if jsonb takes it; else NULL.
 */
static char *
taken_json(TupleDesc desc, Datum *values, bool *nulls)
{
	Tried		tried = {desc, values, nulls, NULL};
	ErrorData  *error = rehome_attempt(try_row, &tried);

	/* text of more than a gigabyte cannot be made at all */
	if (error != NULL && ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_PROGRAM_LIMIT_EXCEEDED &&
		error->sqlerrcode != ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	return tried.json;
}

/*
 * size returns how large a value is.
 */
static Size
size(Form_pg_attribute att, Datum value, bool isnull)
{
	if (isnull)
		return 0;
	if (att->attlen == -1)
		return toast_raw_datum_size(value);
	return att->attlen == -2 ? strlen(DatumGetCString(value)) : att->attlen;
}

/*
 * is_longer tells whether the JSON of a value is known to have more than so many
 * bytes, without making it.
 */
static bool
is_longer(Form_pg_attribute att, Datum value, bool isnull, Size bytes)
{
	Oid			type = getBaseType(att->atttypid);

	return !isnull && (type == TEXTOID || type == VARCHAROID || type == BPCHAROID || type == BYTEAOID || type == JSONOID) &&
		size(att, value, false) > bytes + VARHDRSZ;
}

/*
 * column_is_taken tells whether one column of a row has a place in jsonb; with
 * cut, also whether it is small enough for all of a large row to have one.
 */
static bool
column_is_taken(TupleDesc desc, int i, Datum *values, bool *nulls, bool cut)
{
	TupleDesc	one;
	char	   *json;

	if (nulls[i] || (!cut && is_safe(TupleDescAttr(desc, i)->atttypid)))
		return true;
	if (cut && is_longer(TupleDescAttr(desc, i), values[i], false, CUT_BYTES))
		return false;
	one = CreateTemplateTupleDesc(1);
	TupleDescCopyEntry(one, 1, desc, i + 1);
	json = taken_json(one, &values[i], &nulls[i]);
	return json != NULL && (!cut || strlen(json) <= CUT_BYTES);
}

static void
write_text(void *arg)
{
	Tried	   *one = arg;
	Oid			output;
	bool		varlena;

	getTypeOutputInfo(TupleDescAttr(one->desc, 0)->atttypid, &output, &varlena);
	one->json = OidOutputFunctionCall(output, one->values[0]);
}

/*
 * column_text returns a column's value as text; of one that is too large for a
 * text, that it is.
 */
static char *
column_text(TupleDesc desc, int i, Datum *values, bool *nulls)
{
	Tried		one = {CreateTemplateTupleDesc(1), &values[i], &nulls[i], NULL};
	ErrorData  *error;

	TupleDescCopyEntry(one.desc, 1, desc, i + 1);
	error = rehome_attempt(write_text, &one);
	if (error == NULL)
		return one.json;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_PROGRAM_LIMIT_EXCEEDED && error->sqlerrcode != ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	return psprintf("(a value of %zu bytes)", size(TupleDescAttr(desc, i), values[i], false));
}

/*
 * rehome_text_cut returns a text, if it has no more than so many bytes; else as
 * much of it, and that it is cut.
 */
char *
rehome_text_cut(char *text, int bytes)
{
	size_t		length = strlen(text);
	int			kept;

	if (length <= (size_t) bytes)
		return text;
	kept = pg_mbcliplen(text, (int) length, bytes);
	return psprintf("%.*s... (%d of %zu bytes)", kept, text, kept, length);
}

/*
 * shown_json returns a row as JSON, with the text of columns that jsonb does not
 * take instead; cut, also of those that are large.  With try it may find
 * that it is not taken all the same, and returns NULL.
 */
static char *
shown_json(TupleDesc desc, Datum *values, bool *nulls, bool cut, bool try)
{
	TupleDesc	shape = CreateTupleDescCopy(desc);
	Datum	   *shown = palloc(sizeof(Datum) * desc->natts);

	shape->tdtypeid = RECORDOID;
	shape->tdtypmod = -1;
	for (int i = 0; i < desc->natts; i++)
	{
		char	   *text;

		shown[i] = values[i];
		if (column_is_taken(desc, i, values, nulls, cut))
			continue;
		text = column_text(desc, i, values, nulls);
		shown[i] = CStringGetTextDatum(cut ? rehome_text_cut(text, CUT_BYTES) : text);
		TupleDescInitEntry(shape, i + 1, pstrdup(NameStr(TupleDescAttr(desc, i)->attname)), TEXTOID, -1, 0);
	}
	return try ? taken_json(shape, shown, nulls) : whole_json(shape, shown, nulls);
}

/*
 * rehome_row_json returns a row as JSON that jsonb takes.  It runs functions
 * of its types, as the current user.
 */
char *
rehome_row_json(TupleDesc desc, Datum *values, bool *nulls)
{
	char	   *json;
	bool		safe = true;
	bool		too_large = false;
	Size		bytes = 0;
	bool		large;

	for (int i = 0; i < desc->natts; i++)
	{
		too_large = too_large || is_longer(TupleDescAttr(desc, i), values[i], nulls[i], LARGE_JSON);
		safe = safe && (nulls[i] || is_safe(TupleDescAttr(desc, i)->atttypid));
		bytes += size(TupleDescAttr(desc, i), values[i], nulls[i]);
	}
	large = bytes > SMALL_ROW;
	if (safe && !large)
		return whole_json(desc, values, nulls);
	json = too_large ? NULL : taken_json(desc, values, nulls);
	if (json == NULL && !(safe && large) && !too_large)
		json = shown_json(desc, values, nulls, false, large);
	if (json == NULL)
		json = shown_json(desc, values, nulls, true, false);
	return json;
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
