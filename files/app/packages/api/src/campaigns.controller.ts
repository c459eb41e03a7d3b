import { newCampaign, type NewCampaign } from "@campaign/shared";
import {
  BadRequestException,
  Body,
  Controller,
  Delete,
  Get,
  HttpCode,
  Inject,
  Param,
  ParseUUIDPipe,
  Post,
  Put,
  Query,
  Req,
  Res,
  UseGuards,
} from "@nestjs/common";
import type { FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import { SignedIn } from "./auth.ts";
import { Campaigns } from "./campaigns.ts";
import { ZodPipe } from "./zod.pipe.ts";

const listQuery = z.object({ limit: z.coerce.number().int().min(1).max(1000).default(200) });

@Controller("campaigns")
export class CampaignsController {
  constructor(@Inject(Campaigns) private readonly campaigns: Campaigns) {}

  @Get()
  list(@Query(new ZodPipe(listQuery)) { limit }: z.infer<typeof listQuery>) {
    return this.campaigns.list(limit);
  }

  @Get(":id")
  get(@Param("id", ParseUUIDPipe) id: string) {
    return this.campaigns.get(id);
  }

  @Post()
  @UseGuards(SignedIn)
  create(@Body(new ZodPipe(newCampaign)) campaign: NewCampaign) {
    return this.campaigns.create(campaign);
  }

  @Delete(":id")
  @HttpCode(204)
  @UseGuards(SignedIn)
  remove(@Param("id", ParseUUIDPipe) id: string) {
    return this.campaigns.remove(id);
  }

  @Put(":id/asset")
  @UseGuards(SignedIn)
  setAsset(@Param("id", ParseUUIDPipe) id: string, @Req() request: FastifyRequest) {
    if (!Buffer.isBuffer(request.body) || request.body.length === 0) {
      throw new BadRequestException("Send an image as the body, with its own content type.");
    }
    return this.campaigns.setAsset(id, { body: request.body, contentType: request.headers["content-type"]! });
  }

  @Get(":id/asset")
  async getAsset(@Param("id", ParseUUIDPipe) id: string, @Res() reply: FastifyReply) {
    const { body, contentType } = await this.campaigns.getAsset(id);
    // An image of a stranger's making must stay an image, an SVG with a script included.
    await reply
      .header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
      .header("x-content-type-options", "nosniff")
      .type(contentType)
      .send(Buffer.from(body));
  }
}
