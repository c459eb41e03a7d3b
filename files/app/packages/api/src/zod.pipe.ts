import { BadRequestException, type PipeTransform } from "@nestjs/common";
import type { z } from "zod";

/** Turns what a client sent into the schema's type, or answers 400 with every problem. */
export class ZodPipe<Schema extends z.ZodType> implements PipeTransform<unknown, z.infer<Schema>> {
  constructor(private readonly schema: Schema) {}

  transform(value: unknown): z.infer<Schema> {
    const result = this.schema.safeParse(value);
    if (result.success) return result.data;
    const problems = result.error.issues.map(({ path, message }) => `${path.join(".") || "body"}: ${message}`);
    throw new BadRequestException({ statusCode: 400, message: "The request is not valid.", problems });
  }
}
